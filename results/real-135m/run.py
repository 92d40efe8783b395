"""The search of search.yaml on the real 135M family; leaves its results beside this file.

    python results/real-135m/run.py FAMILY [--work DIR]

FAMILY holds base/, adapters/{sentiment,grammar,units} and tasks/ (see README.md). The search itself runs in DIR (a
temporary folder by default; name one to be able to stop and go on), where `family` points to FAMILY.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = ("report.md", "best.yaml", "trials.csv", "environment.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        link = work / "family"
        if not link.is_symlink():
            link.symlink_to(arguments.family.resolve())
        subprocess.run([sys.executable, "-m", "evolve", "run", str(HERE / "search.yaml")], cwd=work, check=True)
        for name in KEPT:
            shutil.copyfile(work / "results" / "real-135m" / name, HERE / name)


if __name__ == "__main__":
    main()
