"""Memory beside the model while scoring, for several settings of `batch_tokens`, and what happens when it runs out.

    python results/scoring/memory.py MODEL TASKS [--batch-tokens 512 1024 2048 4096 8192]

Every row is a process of its own. It loads the model, prepares the tasks, and resets the kernel's mark of its highest
resident memory (/proc/self/clear_refs; where that is not allowed, resident memory is polled every millisecond); the
table has the peak during one candidate less what was resident before. Then the largest setting is run again in
processes that may have only so much more memory than before scoring (RLIMIT_DATA, which makes the allocation itself
fail): from three quarters of the way between the least and the most that the settings took, down to half of the least.
"largest pass" is the largest that ran, "passes" tells how far they stepped down, and their scores are held against
those without a limit. Long prompts make differences visible, so families.py's 5-shot tasks come beside those of TASKS.
Leaves memory.json and .md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MIB = 2**20
LONG = ("made_hellaswag", "made_race", "made_gsm8k")


def status(field: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


@contextmanager
def peaked() -> Iterator[dict[str, int]]:
    """Afterwards: "before" and "peak" of resident memory, in bytes."""
    found = {"before": status("VmRSS"), "peak": 0}
    over = threading.Event()

    def poll() -> None:
        while not over.wait(1e-3):
            found["peak"] = max(found["peak"], status("VmRSS"))

    try:
        Path("/proc/self/clear_refs").write_text("5")
        reset = status("VmHWM") <= found["before"] + MIB
    except OSError:
        reset = False
    watcher = threading.Thread(target=poll, daemon=True)
    if not reset:
        watcher.start()
    yield found
    over.set()
    found["peak"] = status("VmHWM") if reset else max(found["peak"], status("VmRSS"))


def child(given: argparse.Namespace) -> None:
    """Score one candidate and print what it took, as JSON."""
    import ours
    import stock
    import torch
    from asked import Prompting
    from families import names
    from loading import loaded, tokenizer_of
    from meter import metered

    if given.threads:
        torch.set_num_threads(given.threads)
    stock.quiet()
    model, tokenizer = loaded(given.model, given.dtype), tokenizer_of(given.model)
    (size,) = given.batch_tokens
    parts = [
        ours.prepared(given.tasks, names(given.tasks), tokenizer, Prompting(0), documents=given.documents),
        ours.prepared(given.made, LONG, tokenizer, Prompting(5), documents=given.documents),
    ]
    scorers = [(part, part.scorer(model, tokenizer, batch_tokens=size)) for part in parts]
    with torch.inference_mode():
        model(input_ids=torch.ones(1, 8, dtype=torch.long))  # what is allocated once, whatever is scored
    result: dict[str, Any] = {"documents": sum(part.count for part in parts), "failed": None, "measures": {}}
    unbounded = resource.getrlimit(resource.RLIMIT_DATA)
    if given.room:
        resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + given.room * MIB, unbounded[1]))
    with peaked() as memory, metered(model, tokenizer) as meter:
        start = time.perf_counter()
        try:
            for part, scorer in scorers:
                score = part.score(scorer)
                result["measures"] |= {
                    task: {name: {str(each): value for each, value in values.items()} for name, values in named.items()}
                    for task, named in score.measures.items()
                }
        except Exception as error:  # whatever comes out is the finding
            result["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        seconds = time.perf_counter() - start
    resource.setrlimit(resource.RLIMIT_DATA, unbounded)  # telling what was found must not fail
    print(json.dumps({**result, **memory, "seconds": seconds, "passes": meter.passes, "most": meter.most}))


def run(given: argparse.Namespace, size: int, room: int) -> dict[str, Any]:
    command = [sys.executable, __file__, given.model, str(given.tasks), "--child", "--made", str(given.made),
               "--batch-tokens", str(size), "--room", str(room), "--documents", str(given.documents),
               "--dtype", given.dtype, "--threads", str(given.threads)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    for line in reversed(done.stdout.splitlines()):
        with suppress(json.JSONDecodeError):
            return dict(json.loads(line))
    return {"failed": f"exit {done.returncode}: {done.stderr.strip()[-200:]}", "documents": 0, "measures": {},
            "before": 0, "peak": 0, "seconds": 0.0, "passes": 0, "most": 0}  # fmt: skip


def differences(one: dict[str, Any], two: dict[str, Any]) -> tuple[int, int, float]:
    """Documents scored in both, documents whose metrics differ, and the largest difference of a log-likelihood."""
    there, differ, far = 0, 0, 0.0
    for task, named in one["measures"].items():
        other = two["measures"].get(task, {})
        found: set[str] = set()
        odd: set[str] = set()
        for name, values in named.items():
            for each, value in values.items():
                if each in other.get(name, {}):
                    found.add(each)
                    gap = abs(other[name][each] - value)
                    if name == "loglikelihood":
                        far = max(far, gap)
                    elif gap:
                        odd.add(each)
        there, differ = there + len(found), differ + len(odd)
    return there, differ, far


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--documents", type=int, default=24, help="of each task")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--made", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--room", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given)
    from families import made
    from record import leave, phase

    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        given.made = made(Path(scratch), documents=given.documents)
        free: dict[str, Any] = {}
        least = float("inf")
        largest = max(given.batch_tokens)
        plans = [(size, 0) for size in sorted(given.batch_tokens)]
        while plans:
            size, room = plans.pop(0)
            found = phase(f"batch_tokens {size}, room {room or 'any'}", lambda: run(given, size, room))  # noqa: B023
            above = (found["peak"] - found["before"]) / MIB
            if not room:
                free = found  # that of the largest setting stays
                least = min(least, above)
                if size == largest:  # rooms from what it took down to what the smallest setting took, and half of that
                    plans += [(size, round(least + (above - least) * part)) for part in (0.75, 0.5, 0.25, 0.0)]
                    plans.append((size, round(least / 2)))
            there, differ, far = differences(free, found)
            rows.append(
                {
                    "batch_tokens": size,
                    "memory allowed, MiB": room or "",
                    "peak above the model, MiB": round(above),
                    "largest pass": found["most"],
                    "passes": found["passes"],
                    "seconds": found["seconds"],
                    "documents": found["documents"],
                    "scored": there,
                    "metrics that differ": differ if room else "",
                    "largest log-likelihood difference": far if room else "",
                    "failed": found["failed"] or "",
                }
            )
            raw.append({"batch_tokens": size, "room": room, **{k: v for k, v in found.items() if k != "measures"}})
            title = f"Memory above the model while scoring, {given.dtype}"
            leave("memory", title, rows, raw, notes="Asked: bounded by the setting; no document lost under a limit.")
    return None


if __name__ == "__main__":
    main()
