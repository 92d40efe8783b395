"""A candidate of a search, merged in memory: TIES with densities below 1, everything resident.

    python results/merge-speed/in_memory.py BASE SOURCE SOURCE SOURCE [--mergekit ENVIRONMENT/bin/python]

BASE and SOURCEs are models as recipes name them (BASE+ADAPTER too). Figures, in milliseconds, on 1 thread and on all:
floor: one fused loop over four inputs and one output, all tensors, the words of what is really read (2 bytes, or 4
where an adapter changes the tensor); first: the first candidate, which counts all magnitudes; later: candidates with
other densities and weights (median of 15, and their least), with and without `normalize`; mergekit: `merge_state_dicts`
of its 0.1.5, once. Leaves in-memory-NAME.json and .md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit

from engine.checkpoint import open_checkpoint
from engine.kept import Kept
from engine.merge import merge_into
from engine.plan import Plan, plan
from engine.recipe import Recipe

HERE = Path(__file__).parent
PIECE = 1 << 20
PEER = """
import json, sys, time, torch
from safetensors.torch import load_file
from pathlib import Path
from mergekit.merge_methods import merge_state_dicts
torch.set_num_threads(int(sys.argv[1]))
def load(path):
    return {n: t for f in sorted(Path(path).glob("*.safetensors")) for n, t in load_file(f).items()}
models = {path: load(path) for path in sys.argv[2:]}
base, *sources = sys.argv[2:]
start = time.perf_counter()
with torch.no_grad():
    merge_state_dicts(models, "ties", base=base, dtype=torch.float32, out_dtype=torch.bfloat16,
        parameters={"weight": {s: 0.5 for s in sources}, "density": {s: 0.4 for s in sources}, "normalize": False})
print(time.perf_counter() - start)
"""


@njit(nogil=True)
def stream(base: Any, a: Any, b: Any, c: Any, out: Any) -> None:
    """The cheapest loop that reads four inputs and writes one output."""
    for j in range(out.shape[0]):
        out[j] = np.uint16(base[j] ^ a[j] ^ b[j] ^ c[j])


def words(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    flat = tensor.detach().contiguous().flatten()
    return flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.view(torch.uint32).numpy()


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=4)
    parser.add_argument("--name", default="135m")
    parser.add_argument("--mergekit", help="a Python that has mergekit; for models without adapters")
    parsed = parser.parse_args()
    base, *sources = parsed.models
    opened = {reference: open_checkpoint(reference) for reference in parsed.models}
    chosen = random.Random(0)

    def planned(densities: list[float], normalize: bool) -> Plan:
        models = [
            {"model": source, "parameters": {"weight": chosen.uniform(0.2, 0.8), "density": density}}
            for source, density in zip(sources, densities, strict=True)
        ]
        recipe = {"merge_method": "ties", "base_model": base, "models": models, "parameters": {"normalize": normalize},
                  "dtype": "float32", "out_dtype": "bfloat16"}  # fmt: skip
        return plan(Recipe.model_validate(recipe), opened)

    def densities() -> list[float]:
        return [chosen.uniform(0.1, 0.95) for _ in sources]

    example = planned([0.5] * 3, False)
    targets = {job.name: torch.empty(job.shape, dtype=torch.bfloat16) for job in example.jobs}
    # A search keeps adapted weights as float32 and everything else as it stands in the files.
    arrays = [[words(c.read(j.name)) for c in opened.values()] + [words(targets[j.name])] for j in example.jobs]
    rows = []
    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)

        def floor(threads: int = threads) -> None:
            def run(tensors: list[Any]) -> None:
                for begin in range(0, len(tensors[0]), PIECE):
                    stream(*(tensor[begin : begin + PIECE] for tensor in tensors))

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, arrays))

        def candidate(made: Plan, kept: Kept) -> float:
            return timed(lambda: merge_into(made, targets, device="cpu", kept=kept))

        floor()
        candidate(planned(densities(), True), Kept(0))  # compiles
        floors = [timed(floor) for _ in range(10)]
        firsts = []
        for _ in range(3):
            kept = Kept(64 << 30)
            candidate(planned([1.0] * 3, False), kept)  # resident: adapters are added once, nothing is counted
            firsts.append(candidate(planned(densities(), False), kept))
        later = [candidate(planned(densities(), False), kept) for _ in range(15)]
        normalized = [candidate(planned(densities(), True), kept) for _ in range(15)]
        floors += [timed(floor) for _ in range(10)]
        row = {"threads": threads, "floor": statistics.median(floors), "first": statistics.median(firsts)}
        for name, runs in (("later", later), ("normalized", normalized)):
            row |= {name: statistics.median(runs), f"{name}_least": min(runs)}
        row["floor_least"] = min(floors)
        if parsed.mergekit:
            done = subprocess.run([parsed.mergekit, "-c", PEER, str(threads), *parsed.models],
                                  check=True, capture_output=True, text=True)  # fmt: skip
            row["mergekit"] = float(done.stdout.split()[-1]) * 1e3
        rows.append(row)
        print(json.dumps(row), flush=True)
    (HERE / f"in-memory-{parsed.name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / f"in-memory-{parsed.name}.md").write_text(table(parsed.name, rows))


def table(name: str, rows: list[dict[str, float]]) -> str:
    """Return the figures as Markdown; ratios are of medians."""
    lines = [
        f"# TIES candidates in memory, {name}: milliseconds, and times the floor",
        "",
        "| threads | floor | first | later | later, normalize | mergekit | mergekit / later |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = " | ".join(f"{row[k]:.0f} ({row[k] / row['floor']:.1f}x)" for k in ("first", "later", "normalized"))
        peer = f"{row['mergekit']:.0f} | {row['mergekit'] / row['later']:.0f}" if "mergekit" in row else "- | -"
        lines.append(f"| {row['threads']:.0f} | {row['floor']:.0f} | {figures} | {peer} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
