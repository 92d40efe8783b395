"""The gain and the overhead of the demo's search, over several seeds.

    python results/demo-gain/measure.py [--seeds 5] [--report 1000] [--workers auto]

Runs tasks/demo/search.yaml once a seed (which also draws other document sets), with more report documents, and writes
README.md (the table) and gains.json (everything) beside this file. Run it from the project's root.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from evolve.preparation.belonging import storage_url
from evolve.preparation.guard import load_run
from evolve.storage.ledger import Ledger

HERE = Path(__file__).resolve().parent


def measure(seed: int, report: int, workers: str, scratch: Path) -> dict[str, Any]:
    """One search; what its verdict says and where its time went."""
    config = yaml.safe_load(Path("tasks/demo/search.yaml").read_text(encoding="utf-8"))
    config["seed"], config["name"] = seed, f"seed-{seed}"
    config["score"]["documents"]["report"] = report
    config["run"] = {"workers": int(workers) if workers.isdigit() else workers, "output": str(scratch)}
    path = scratch / f"seed-{seed}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "evolve", "run", str(path)], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    run = load_run(scratch / f"seed-{seed}")
    verdict = Ledger(storage_url(run), run.name, must_exist=True).attribute("verdict")
    environment = json.loads((scratch / f"seed-{seed}" / "environment.json").read_text(encoding="utf-8"))
    return {"seed": seed, "wall": wall, "seconds": environment["seconds"], "verdict": verdict}


def overhead(seconds: dict[str, float]) -> float:
    """The share of the candidates' time that is neither merging nor the model's forward passes."""
    return 1 - (seconds["merge"] + seconds["forward"]) / seconds["total"]


def table(runs: list[dict[str, Any]], report: int) -> str:
    lines = [
        "# What the demo's search gains",
        "",
        f"`python results/demo-gain/measure.py`: tasks/demo/search.yaml, one run a seed, {report} report documents a "
        "task. Means over the five tasks in hundredths; the gain is over the best of base, sources and plain merges by "
        "the report documents, with a 95 % paired bootstrap interval. Overhead is the share of the candidates' time "
        "that is neither merging nor forward passes.",
        "",
        "| seed | winner | best of the others | gain (95 % interval) | overhead | seconds in all |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        rows = {row["name"]: row for row in run["verdict"]["rows"]}
        best = rows[run["verdict"]["best"]]
        gain = best["gain"]
        lines.append(
            f"| {run['seed']} | {100 * rows['winner']['mean']:.1f} | {100 * best['mean']:.1f} ({best['name']}) "
            f"| {100 * gain['mean']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}) "
            f"| {100 * overhead(run['seconds']):.1f} % | {run['wall']:.0f} |"
        )
    gains = [
        next(row for row in run["verdict"]["rows"] if row["name"] == run["verdict"]["best"])["gain"]["mean"]
        for run in runs
    ]
    lines += ["", f"Mean gain over the seeds: {100 * sum(gains) / len(gains):+.1f} points."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", type=int, default=1000)
    parser.add_argument("--workers", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = [measure(seed, arguments.report, arguments.workers, Path(scratch)) for seed in range(arguments.seeds)]
    (HERE / "gains.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(table(runs, arguments.report), encoding="utf-8")
    print((HERE / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
