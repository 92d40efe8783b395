"""What generations cost where candidates take unequal times, and whether anything is lost without them.

    python results/scale/stragglers.py                    # from the root: 8 workers, sigma 0.6, 400 evaluations

Simulated workers (`simulated.py`), everything else real. The score is that of the recipe that the search believes in,
in the landscape itself, without the luck of documents. Writes stragglers.json and stragglers.md beside itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from simulated import DOCUMENTS, OBJECTIVE, Cluster, quality, space_of  # noqa: E402

from evolve.config.budget import Budget  # noqa: E402
from evolve.config.search_yaml import Search  # noqa: E402
from evolve.optimizers import OPTIMIZERS  # noqa: E402
from evolve.optimizers.optimizer import Problem  # noqa: E402
from evolve.search.draws import Draws  # noqa: E402
from evolve.search.loop import search  # noqa: E402
from evolve.search.study import Study  # noqa: E402
from evolve.storage.ledger import Ledger  # noqa: E402
from evolve.trial import Trial  # noqa: E402


class Nobody:
    """Who watches a search."""

    def replayed(self, trials: int, moved: int) -> None: ...

    def decided(self, decision: Any) -> None: ...

    def finished(self, trial: Trial) -> None: ...


def searched(seed: int, arguments: argparse.Namespace, *, asynchronous: bool, race: bool) -> dict[str, Any]:
    space, row = space_of(3, 6), OPTIMIZERS["cma"]
    cluster = Cluster(arguments.workers, 1.0, arguments.sigma, quality, seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ledger = Ledger(f"sqlite:///{folder}/study.db", "run")
        budget = Budget.of(Search(trials=arguments.trials), [], [])
        draws = Draws(DOCUMENTS, seed, raced=race)
        study = Study(space, cluster, ledger, budget, OBJECTIVE, draws, watcher=Nobody(), check=lambda: None)
        problem = Problem(space.genes, (), seed, 12, grow=True)
        believed = search(study, row.make, problem, steady=row.steady if asynchronous else None)
        ledger.close()
    return {
        "seed": seed,
        "asynchronous": asynchronous,
        "race": race,
        "minutes": round(cluster.clock / 60, 2),
        "utilisation": round(cluster.busy / (cluster.clock * cluster.workers), 4),
        "documents": study.documents,
        "score": round(quality(space.decode(believed or ())), 4),
    }


def table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    lines = [
        "# Stragglers",
        "",
        f"{arguments.workers} workers, candidates of log-normal times (mean a minute, sigma {arguments.sigma:g}), "
        f"{arguments.trials} evaluations, {arguments.seeds} seeds; the opening (13 candidates in small generations) "
        "included. Minutes by the simulated clock.",
        "",
        "| | minutes in generations | without | ratio (lowest) | workers busy, in generations | without "
        "| score, in generations | without | difference and its standard error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for race in (False, True):
        old, new = (
            [row for row in rows if row["race"] is race and row["asynchronous"] is mode] for mode in (False, True)
        )
        ratios = [a["minutes"] / b["minutes"] for a, b in zip(old, new, strict=True)]
        gaps = [b["score"] - a["score"] for a, b in zip(old, new, strict=True)]
        error = np.std(gaps, ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        means = {key: [np.mean([row[key] for row in each]) for each in (old, new)] for key in old[0] if key != "race"}
        lines.append(
            f"| {'races' if race else 'all candidates whole'} | {means['minutes'][0]:.1f} | {means['minutes'][1]:.1f} "
            f"| {np.mean(ratios):.2f} ({min(ratios):.2f}) "
            f"| {means['utilisation'][0]:.0%} | {means['utilisation'][1]:.0%} "
            f"| {means['score'][0]:.4f} | {means['score'][1]:.4f} | {np.mean(gaps):+.4f}, {error:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--sigma", type=float, default=0.6)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    rows = []
    for race in (False, True):
        for seed in range(arguments.seeds):
            for asynchronous in (False, True):
                rows.append(searched(seed, arguments, asynchronous=asynchronous, race=race))
                print(rows[-1], flush=True)
    (HERE / "stragglers.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    (HERE / "stragglers.md").write_text(table(rows, arguments))


if __name__ == "__main__":
    main()
