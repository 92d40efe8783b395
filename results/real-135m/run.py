"""The search of search.yaml on the real 135M family, once a seed; leaves seed-N/ beside this file.

    python results/real-135m/run.py FAMILY --work DIR [--seeds 0 1 2]

FAMILY holds base/, adapters/{sentiment,grammar,units} and tasks/ (see README.md). The searches run in DIR/seed-N/,
where `family` points to FAMILY; one that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
KEPT = ("report.md", "best.yaml", "trials.csv", "environment.json")


def options(told: str) -> argparse.ArgumentParser:
    """What all scripts of this folder are asked with."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


def prepared(family: Path, work: Path, seed: int) -> Path:
    """The folder that a seed's search runs in, with its search.yaml."""
    folder = work / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "family").is_symlink():
        (folder / "family").symlink_to(family.resolve())
    content = yaml.safe_load((HERE / "search.yaml").read_text())
    (folder / "search.yaml").write_text(yaml.safe_dump({**content, "seed": seed}, sort_keys=False))
    return folder


def run_folder(folder: Path) -> Path:
    """Where the search in such a folder leaves its results."""
    return folder / "results" / "real-135m"


def main() -> None:
    arguments = options(__doc__).parse_args()
    for seed in arguments.seeds:
        folder = prepared(arguments.family, arguments.work, seed)
        subprocess.run([sys.executable, "-m", "evolve", "run", "search.yaml"], cwd=folder, check=True)
        (HERE / f"seed-{seed}").mkdir(exist_ok=True)
        for name in KEPT:
            shutil.copyfile(run_folder(folder) / name, HERE / f"seed-{seed}" / name)


if __name__ == "__main__":
    main()
