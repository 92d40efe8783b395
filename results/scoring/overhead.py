"""What a candidate costs outside of the model: everything in `Scorer.score` that is no forward pass.

    python results/scoring/overhead.py MODEL TASKS [--sizes 100 300 1000]

Once for MODEL in bfloat16 on the tasks of the folder TASKS, once for the demo's model in float32 on the demo's tasks,
with 100 to 1000 documents in all, shared evenly among the tasks. "model" is the time inside the model's modules, taken
by hooks on them; "outside" is the rest of the call, by the clock and in processor time of the calling thread, which
other processes lengthen little: on a machine that has other work, "kept" by the clock measures that work;
"own account" is the scorer's `seconds["other"]`. Medians over candidates; the first,
which plans the batches, stands apart. A candidate has weights of its own, so that nothing that depends on them can be
kept. Leaves overhead.json and .md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ours
import stock
import torch
from asked import Prompting
from families import names
from loading import loaded, tokenizer_of
from meter import metered
from record import leave, phase

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "tasks" / "demo"


def disturb(model: torch.nn.Module, number: int) -> None:
    """Other weights, all but the same, as a merge would write them: in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01 if number % 2 else 1 / 1.01)


def measured(
    folder: Path, tasks: Sequence[str], model: Any, tokenizer: Any, size: int, given: argparse.Namespace
) -> list[dict[str, float]]:
    """Seconds of each candidate."""
    asked = ours.prepared(folder, tasks, tokenizer, Prompting(), documents=-(-size // len(tasks)))
    scorer = asked.scorer(model, tokenizer, batch_tokens=given.batch_tokens)
    rows = []
    for number in range(given.candidates + 1):
        disturb(model, number)
        with metered(model, tokenizer) as meter:
            start, cpu = time.perf_counter(), time.thread_time()
            score = asked.score(scorer)
            whole, cpu = time.perf_counter() - start, time.thread_time() - cpu
        rows.append({"documents": asked.count, "whole": whole, "model": meter.seconds, "outside": whole - meter.seconds,
                     "outside_cpu": cpu - meter.cpu,
                     "passes": meter.passes, "tokens": meter.tokens, **score.seconds})  # fmt: skip
    return rows


def row(name: str, kind: str, rows: Sequence[dict[str, float]], allowed: float | None) -> dict[str, Any]:
    middle = {key: statistics.median(each[key] for each in rows[1:]) for key in rows[0]}
    bound = 0.02 + 20e-6 * middle["documents"] if allowed is None else allowed * middle["whole"]
    return {
        "model": name,
        "tasks": kind,
        "documents": int(middle["documents"]),
        "whole s": middle["whole"],
        "in the model s": middle["model"],
        "outside ms": 1e3 * middle["outside"],
        "outside ms, processor": 1e3 * middle["outside_cpu"],
        "outside %": 100 * middle["outside"] / middle["whole"],
        "asked, ms at most": 1e3 * bound,
        "kept": "yes" if middle["outside"] <= bound else "NO",
        "kept, processor": "yes" if middle["outside_cpu"] <= bound else "NO",
        "own account: other ms": 1e3 * middle["other"],
        "first candidate, outside ms": 1e3 * rows[0]["outside"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000], help="documents in all")
    parser.add_argument("--candidates", type=int, default=7)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    stock.quiet()
    every = names(DEMO)
    choosing = [name for name in every if name in ("demo_pick", "demo_second")]
    writing = [name for name in every if name not in choosing]
    settings = [("demo", "multiple choice", str(DEMO / "models" / "base"), "float32", DEMO, choosing, None),
                ("demo", "generation", str(DEMO / "models" / "base"), "float32", DEMO, writing, None),
                ("demo", "all five", str(DEMO / "models" / "base"), "float32", DEMO, every, None),
                (Path(given.model).name, "multiple choice", given.model, "bfloat16", given.tasks, names(given.tasks),
                 0.05)]  # fmt: skip
    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    for name, kind, folder, dtype, tasks, chosen, allowed in settings:
        model, tokenizer = loaded(folder, dtype), tokenizer_of(folder)
        for size in given.sizes:
            seconds = phase(f"{name}, {kind}, {size} documents",
                            lambda: measured(tasks, chosen, model, tokenizer, size, given))  # noqa: B023  # fmt: skip
            raw.append({"model": name, "tasks": chosen, "documents": size, "candidates": seconds})
            rows.append(row(name, kind, seconds, allowed))
            notes = "Asked: 5 % for the 135M model; 20 ms and 20 microseconds a document for the demo's."
            title = "Time per candidate outside of the model's forward passes"
            leave("overhead", title, rows, raw, threads=torch.get_num_threads(), notes=notes)


if __name__ == "__main__":
    main()
