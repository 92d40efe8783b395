"""Kill one search many times, restart it by the same command, and compare it with the run that was left alone.

    python results/reliability/driver.py                      # from the root: 50 kills of the demo's search
    python results/reliability/driver.py --kills 2 --trials 12

SIGKILL leaves the process no chance to put anything in order. The moments are drawn with a seed over the steps of
the run: candidates of the search, finalists, models on the report documents; and at random within a step.
Both runs work in a temporary folder. Writes driver.json and driver.md beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
SEARCH = ROOT / "tasks" / "demo" / "search.yaml"
PATIENCE = 1200.0  # seconds for one start of the run
DELAY = 0.5  # seconds after a step's begin within which the kill falls


@dataclass(frozen=True)
class Kill:
    number: int
    stage: str
    step: int  # the run was killed at this step of the stage or after it
    delay: float  # seconds after the step was seen
    trials: int  # recorded when the process was dead
    scores: int  # of finalists and models, kept when the process was dead
    in_flight: int  # candidates at most that were being evaluated and are evaluated again


def configuration(trials: int, workers: int, output: Path) -> Path:
    """The demo's search.yaml with absolute paths, this budget, and this folder."""
    config = yaml.safe_load(SEARCH.read_text(encoding="utf-8"))
    config["models"] = {
        "base": str(ROOT / config["models"]["base"]),
        "sources": [str(ROOT / source) for source in config["models"]["sources"]],
    }
    config["score"]["include"] = [str(ROOT / folder) for folder in config["score"]["include"]]
    config["search"]["trials"] = trials
    config["run"] = {"workers": workers, "output": str(output)}
    output.mkdir(parents=True)
    path = output / "search.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


class Started:
    """A start of `evolve run` in a process of its own session, which was forked after the imports: they take most of
    the time of a start."""

    def __init__(self, path: Path, log: Path) -> None:
        self.log, self._code = log, None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = command(path, log)
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = PATIENCE) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                sys.exit(f"the run took more than {seconds:.0f} seconds:\n{self.log.read_text()}")
            time.sleep(0.02)
        return int(self.poll() or 0)


def command(path: Path, log: Path) -> int:
    """What the forked process does."""
    os.setsid()
    os.chdir(ROOT)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.argv = ["evolve", "run", str(path)]
    from evolve.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def begin(path: Path) -> tuple[Started, Path]:
    import transformers.models.auto.modeling_auto  # noqa: F401

    log = path.with_suffix(".log")
    log.unlink(missing_ok=True)
    log.touch()
    return Started(path, log), log


def finish(path: Path) -> str:
    process, log = begin(path)
    if process.wait(PATIENCE) != 0:
        sys.exit(f"the run failed:\n{log.read_text()}")
    return log.read_text()


def recorded(folder: Path) -> int:
    """Trials in the ledger, read without Optuna while the run may be writing."""
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=10) as connection:
            return int(connection.execute("select count(*) from trials").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def kept(folder: Path) -> int:
    """Finalists and models in the item database: those with more documents a task than the search has."""
    score = yaml.safe_load(SEARCH.read_text(encoding="utf-8"))["score"]
    rows = 0
    for path in (folder / "items").glob("*.parquet"):
        try:
            sizes = pc.list_value_length(pq.read_table(path, columns=["documents"]).column("documents"))
        except (OSError, pa.ArrowException):  # merged into another file just now
            continue
        rows += sum(size > score["documents"]["search"] for size in sizes.to_pylist())
    return rows // len(score["tasks"])


def draw(kills: int, trials: int, finalists: int, models: int, seed: int) -> list[tuple[str, int]]:
    """(stage, step) of every kill, in the order of the run."""
    numbers = random.Random(seed)
    report = min(models - 1, max(kills // 5, min(1, kills - 1)))  # the last one may end before the kill
    last = min(finalists, kills // 7)
    steps = {
        "search": numbers.sample(range(trials), min(trials, kills - report - last)),
        "finalists": numbers.sample(range(finalists), last),
        "report": numbers.sample(range(models - 1), report),
    }
    return [(stage, step) for stage, drawn in steps.items() for step in sorted(drawn)]


def kill(path: Path, folder: Path, number: int, stage: str, step: int, delay: float, done: int, workers: int) -> Kill:
    """Start the run, and kill it `delay` seconds after it is seen to have come to `step` of `stage`."""
    process, log = begin(path)
    at_work = {"search": "worker", "finalists": "finalists", "report": "report documents"}[stage]
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        steps = recorded(folder) if stage == "search" else kept(folder)
        if steps >= step + done and (at_work in log.read_text() or stage == "report"):
            time.sleep(delay)
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        sys.exit(f"kill {number}: the run had ended by itself:\n{log.read_text()}")
    flying = workers if stage == "search" else 0
    return Kill(number, stage, step, round(delay, 3), recorded(folder), kept(folder), flying)


def trials_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The ledger's trials without what the clock says: ids, points to the last bit, values, digests, failures."""
    from evolve.storage.ledger import Ledger

    trials = [asdict(trial) for trial in Ledger(f"sqlite:///{folder / 'study.db'}", name, must_exist=True).trials()]
    return [{key: value for key, value in trial.items() if key not in ("seconds", "finished")} for trial in trials]


def table_of(folder: Path) -> list[str]:
    """The report's rows of numbers."""
    return [line for line in (folder / "report.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]


def compare(folder: Path, alone: Path, name: str) -> dict[str, bool]:
    weights = "checkpoint/model.safetensors"
    return {
        "trials": trials_of(folder, name) == trials_of(alone, name),
        "winner": (folder / "best.yaml").read_bytes() == (alone / "best.yaml").read_bytes(),
        "checkpoint": (folder / weights).read_bytes() == (alone / weights).read_bytes(),
        "report": table_of(folder) == table_of(alone),
        "files": {path.relative_to(folder) for path in folder.rglob("*")}
        == {path.relative_to(alone) for path in alone.rglob("*")},
    }


def readme(kills: list[Kill], same: dict[str, bool], trials: int, workers: int, seed: int) -> str:
    head = f"""# Killed {len(kills)} times

The demo's search ({trials} candidates, {workers} worker{"s" if workers > 1 else ""}), left alone, and the same search
killed {len(kills)} times with SIGKILL and restarted by the same command each time. The moments are drawn over the
steps of the run (seed {seed}) and at random within a step.

| compared with the run left alone | the same |
|---|---|
| all trials: ids, points to the last bit, values, recipes | {yes(same["trials"])} |
| best.yaml | {yes(same["winner"])} |
| the checkpoint's weights, byte for byte | {yes(same["checkpoint"])} |
| the report's numbers | {yes(same["report"])} |
| the files of the run's folder, no leftovers | {yes(same["files"])} |

| kill | moment | trials recorded | scores kept | candidates repeated, at most |
|---:|---|---:|---:|---:|
"""
    rows = (
        f"| {each.number} | {each.stage}, {each.delay:.2f} s after step {each.step} | {each.trials} | {each.scores} "
        f"| {each.in_flight} |\n"
        for each in kills
    )
    foot = "\n`python results/reliability/driver.py` makes this page and driver.json.\n"
    return head + "".join(rows) + foot


def yes(same: bool) -> str:
    return "yes" if same else "**NO**"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="of killing; then the run is left to end")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of driver.md and driver.json")
    options = parser.parse_args()
    name = yaml.safe_load(SEARCH.read_text(encoding="utf-8"))["name"]
    with tempfile.TemporaryDirectory() as temporary:
        left, disturbed = Path(temporary) / "alone", Path(temporary) / "killed"
        said = finish(configuration(options.trials, options.workers, left))
        print(f"left alone: {recorded(left / name)} trials", flush=True)
        finalists = int(re.findall(r"finalists on the selection documents: \d+ of (\d+)", said)[-1])
        models = kept(left / name) - finalists
        path, folder = configuration(options.trials, options.workers, disturbed), disturbed / name
        delays = random.Random(options.seed + 1)
        kills: list[Kill] = []
        begun = time.monotonic()
        for stage, step in draw(options.kills, options.trials, finalists, models, options.seed):
            if time.monotonic() - begun > 60 * options.minutes:
                print("the time for kills is over", flush=True)
                break
            done = finalists if stage == "report" else 0
            delay = delays.uniform(0, DELAY)
            kills.append(kill(path, folder, len(kills) + 1, stage, step, delay, done, options.workers))
            print(kills[-1], flush=True)
        finish(path)
        same = compare(folder, left / name, name)
    print(same)
    facts = {"trials": options.trials, "workers": options.workers, "seed": options.seed, "same": same}
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "kills": [asdict(each) for each in kills]}, indent=2)
    (options.out / "driver.json").write_text(text + "\n", encoding="utf-8")
    page = readme(kills, same, options.trials, options.workers, options.seed)
    (options.out / "driver.md").write_text(page, encoding="utf-8")
    sys.exit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
