"""Does mergekit make the same weights of a recipe that a search wrote?

    python results/mergekit-agreement/compare.py results/demo --mergekit path/to/mergekit-yaml

Gives best.yaml of a finished run to mergekit-yaml (from an environment of its own), compares every tensor with the
run's checkpoint, and writes README.md beside this file. Run it where the run was made: recipes hold relative paths.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--mergekit", required=True)
    arguments = parser.parse_args()
    lines = [
        "# best.yaml through mergekit",
        "",
        "`python results/mergekit-agreement/compare.py RUN --mergekit .../mergekit-yaml`, mergekit 0.1.5. Steps are "
        "units in the last place of the stored dtype.",
        "",
        "| run | method | dtype | tensors | elements | that differ | by more than one step |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in arguments.runs:
        with tempfile.TemporaryDirectory() as scratch:
            subprocess.run([arguments.mergekit, str(run / "best.yaml"), scratch], check=True)
            theirs = {k: v for path in Path(scratch).glob("*.safetensors") for k, v in load_file(path).items()}
        ours = {k: v for path in (run / "checkpoint").glob("*.safetensors") for k, v in load_file(path).items()}
        if ours.keys() != theirs.keys():
            raise SystemExit(f"{run}: the tensors' names differ: {sorted(ours.keys() ^ theirs.keys())[:5]}")
        count = sum(tensor.numel() for tensor in ours.values())
        differ = sum(int((ours[name] != theirs[name]).sum()) for name in ours)
        far = sum(int((steps(ours[name], theirs[name]) > 1).sum()) for name in ours)
        method = next(
            line.split(":")[1].strip()
            for line in (run / "best.yaml").read_text().splitlines()
            if line.startswith("merge_method")
        )
        dtype = str(next(iter(ours.values())).dtype).removeprefix("torch.")
        lines.append(f"| {run.name} | {method} | {dtype} | {len(ours)} | {count} | {differ} | {far} |")
    lines += [
        "",
        "In TIES merges of bfloat16 models many task-vector elements have exactly the threshold's magnitude. Which of "
        "them are kept is the order of an unstable sort in mergekit, and the order of position here (docs/recipes.md).",
    ]
    (HERE / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def steps(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """The distance of two tensors in steps of their dtype at the larger magnitude."""
    larger = torch.maximum(ours.abs(), theirs.abs()).float().clamp_min(torch.finfo(ours.dtype).tiny)
    step = torch.finfo(ours.dtype).eps * 2.0 ** torch.floor(torch.log2(larger))
    return (ours.float() - theirs.float()).abs() / step


if __name__ == "__main__":
    main()
