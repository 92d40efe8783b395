"""Fuzz one parser of outside data, guided by coverage (atheris: libFuzzer for Python; `pip install atheris`).

    python results/fuzz/fuzz.py PARSER --minutes 10    (or: all)

Inputs are bytes that libFuzzer changes, and, where the parser reads JSON, YAML or a safetensors header, in every
second step a tree whose values are exchanged for hostile ones. A finding never ends the run: it is kept, once for each
place that raised it. A process that dies (a crash in native code, too much memory) or hangs is a finding too, and
another one goes on. What was reached is kept in tests/fuzz/corpus/PARSER: one short input for each outcome.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = ROOT / "tests" / "fuzz" / "corpus"
SECONDS = 5  # that one input may take
MEGABYTES = 2500  # that the process may hold
LONGEST = 20_000  # bytes of an input
KEPT = 40  # inputs of a parser in the corpus
KEPT_BYTES = 4000  # of one of them


class Late(BaseException):
    """An input took more than SECONDS."""


def late(*_: Any) -> None:
    raise Late


def place_of(error: BaseException) -> str:
    """The last frame that is ours."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(ROOT) in f.filename]
    frames = [f for f in frames if "site-packages" not in f.filename] or frames
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].name}" if frames else "?"


def outcome_of(error: BaseException | None) -> str:
    """What became of an input, without its own words."""
    if error is None:
        return "read"
    text = re.sub(r"[\[{(].*[\])}]|'[^']*'|\"[^\"]*\"|\S*/\S*|[\d.e+-]*\d|[^ -~]+", "_", " ".join(str(error).split()))
    return f"{type(error).__name__} in {place_of(error)}: {' '.join(text.split()[:9])[:100]}"


class Trial:
    """One process's work: runs inputs, counts outcomes, keeps findings."""

    def __init__(self, name: str, work: Path) -> None:
        sys.path[:0] = [str(ROOT), str(HERE)]
        import parsers

        self.parser, self.told = parsers.PARSERS[name], parsers.TOLD
        self.work, self.folder = work, Path(tempfile.mkdtemp(dir=scratch()))
        self.executions, self.saved = 0, time.monotonic()
        self.outcomes: Counter[str] = Counter()
        self.shortest: dict[str, int] = {}
        signal.signal(signal.SIGALRM, late)

    def run(self, data: bytes) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.work / "last").write_bytes(data)
        outcome, bad = self.attempt(data)
        self.executions += 1
        self.outcomes[outcome] += 1
        if len(data) < self.shortest.get(outcome, LONGEST + 1):
            self.shortest[outcome] = len(data)
            name = ("bad-" if bad else "ok-") + hashlib.sha256(outcome.encode()).hexdigest()[:16]
            (self.work / "outcomes" / name).write_bytes(data)
            (self.work / "outcomes" / f"{name}.txt").write_text(f"{outcome}\n{bad}", encoding="utf-8", errors="replace")
        if time.monotonic() - self.saved > 5:
            self.save()

    def attempt(self, data: bytes) -> tuple[str, str]:
        """The outcome, and the traceback of a finding."""
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            self.parser.read(data, self.folder)
            return outcome_of(None), ""
        except self.told as error:
            return outcome_of(error), ""
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return outcome_of(error), traceback.format_exc()[-3000:]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def save(self) -> None:
        self.saved = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        found = {"executions": self.executions, "outcomes": self.outcomes, "peak": peak}
        (self.work / f"count-{os.getpid()}.json").write_text(json.dumps(found))


def scratch() -> str:
    return "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()


def fuzz(name: str, work: Path, seconds: int) -> None:
    """In a process of its own, that libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["engine", "evolve", "tasks"]):
        sys.path[:0] = [str(ROOT), str(HERE)]
        import parsers
    import mutation

    trial = Trial(name, work)
    seeds = work / "inputs"
    for data in [*parsers.PARSERS[name].seeds(), *corpus_of(name)]:
        (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        changed = mutation.mutate(data, trial.parser.form, seed) if seed % 2 else None
        return atheris.Mutate(data, most) if changed is None or len(changed) > most else changed

    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-rss_limit_mb={MEGABYTES}",
        "-timeout=30",
        f"-artifact_prefix={work}/died-",
        "-print_final_stats=0",
        "-verbosity=0",
        "-close_fd_mask=0",
    ]
    atheris.Setup([sys.argv[0], *flags, str(seeds)], trial.run, custom_mutator=mutate)
    atheris.Fuzz()


def corpus_of(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*")) if path.suffix != ".md"]


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("parser", help="one of parsers.py, or all, one after the other")
    given.add_argument("--minutes", type=float, default=10)
    given.add_argument("--work", type=Path, help="a folder for what is found; else a temporary one")
    given.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    asked = given.parse_args()
    if asked.parser == "all":
        sys.path[:0] = [str(ROOT), str(HERE)]
        import parsers

        for name in parsers.PARSERS:
            subprocess.run([sys.executable, __file__, name, "--minutes", str(asked.minutes)], check=True)
        return
    if asked.seconds is not None:
        fuzz(asked.parser, asked.work, asked.seconds)
        return
    work = asked.work or Path(tempfile.mkdtemp(prefix=f"fuzz-{asked.parser}-"))
    for part in ("inputs", "outcomes", "cache"):
        (work / part).mkdir(parents=True, exist_ok=True)
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(work / "cache"),
        "HF_HOME": str(work / "cache"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "FUZZ_SCRATCH": scratch(),
    }
    start = time.monotonic()
    died = 0
    while (left := asked.minutes * 60 - (time.monotonic() - start)) > 5:
        words = [sys.executable, __file__, asked.parser, "--work", str(work), "--seconds", str(int(left) + 1)]
        with (work / "log").open("ab") as log:
            done = subprocess.run(words, env=os.environ | quiet, stdout=log, stderr=log, check=False)
        if done.returncode:
            died += 1
            if (work / "last").exists():
                shutil.copy(work / "last", work / f"died-{died}")
            if died > 20:
                break
    report(asked.parser, work, died, time.monotonic() - start)


def report(name: str, work: Path, died: int, seconds: float) -> None:
    """Print a line for the table, and the findings; keep the corpus."""
    counts = [json.loads(path.read_text()) for path in work.glob("count-*.json")]
    outcomes = {name for count in counts for name in count["outcomes"]}
    bad = sorted((work / "outcomes").glob("bad-*.txt"))
    row = {
        "parser": name,
        "minutes": round(seconds / 60, 1),
        "executions": sum(c["executions"] for c in counts),
        "outcomes": len(outcomes),
        "findings": len(bad),
        "died": died,
        "peak_megabytes": max((c["peak"] for c in counts), default=0),
    }
    print(json.dumps(row))
    for path in bad:
        print(path.read_text().splitlines()[0], "->", path.with_suffix(""))
    keep(name, work)


def keep(name: str, work: Path) -> None:
    """The shortest input of each outcome, the rarest kinds first; findings stay whatever there is."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir()}
    found = sorted((p for p in (work / "outcomes").glob("*") if p.suffix != ".txt"), key=lambda p: p.stat().st_size)
    bad = [path for path in found if path.name.startswith("bad-")]
    for path in [*bad, *(path for path in found if path not in bad)]:
        if path.stat().st_size <= KEPT_BYTES and (path in bad or len(there) < KEPT):
            shutil.copy(path, folder / path.name)
            there.add(path.name)


if __name__ == "__main__":
    main()
