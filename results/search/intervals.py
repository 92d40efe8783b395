"""How often the 95 % intervals of a report hold the truth, and how often a gain is claimed where there is none.

    python results/search/intervals.py [runs]      # about ten minutes on one core with 1,000 runs; leaves intervals.md

Simulated answers whose true difference is known. `plain` is the percentile interval of the same bootstrap, as it was
before evolve.statistics stretched it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evolve.statistics import paired as statistics
from evolve.statistics.paired import paired, paired_difference, resampled_means

Array = npt.NDArray[np.float64]
Pair = tuple[Array, Array]
Values = dict[str, dict[int, float]]
ROOT = Path(__file__).parent
SIZES = (16, 32, 64, 256, 1000)
TASKS = (1, 3, 5)
statistics.RESAMPLES = 2000  # a run has 10,000: their own noise is the smaller part


def right_or_wrong(differing: float, gain: float) -> Callable[[np.random.Generator, int], Pair]:
    """Two models that differ on a share of the documents; ours is right on `gain` more of them."""

    def draw(generator: np.random.Generator, documents: int) -> Pair:
        dice, shared = generator.random(documents), (generator.random(documents) < 0.6).astype(float)
        wins, losses = dice < (differing + gain) / 2, dice > 1 - (differing - gain) / 2
        return np.where(wins, 1.0, np.where(losses, 0.0, shared)), np.where(wins, 0.0, np.where(losses, 1.0, shared))

    return draw


def graded(generator: np.random.Generator, documents: int) -> Pair:
    """Shares between 0 and 1 (such as F1), many of them 0 and 1; the true difference is 0."""
    ease = generator.random(documents)
    ours, theirs = (np.clip(ease + generator.normal(0, 0.2, documents), 0, 1) for _ in range(2))
    return ours, theirs


def answers(generator: np.random.Generator, documents: int) -> Pair:
    """Log-likelihoods: small differences, and a tenth of large losses; the true difference is -.2."""
    gap = generator.normal(0, 0.1, documents) - (generator.random(documents) < 0.1) * generator.exponential(
        2, documents
    )
    theirs = -generator.exponential(2, documents)
    return theirs + gap, theirs


KINDS: dict[str, tuple[Callable[[np.random.Generator, int], Pair], float]] = {
    "right or wrong, 2 % differ, equal": (right_or_wrong(0.02, 0.0), 0.0),
    "right or wrong, 10 % differ, equal": (right_or_wrong(0.1, 0.0), 0.0),
    "right or wrong, 10 % differ, +.08": (right_or_wrong(0.1, 0.08), 0.08),
    "right or wrong, 30 % differ, +.15": (right_or_wrong(0.3, 0.15), 0.15),
    "shares from 0 to 1, equal": (graded, 0.0),
    "log-likelihoods, rare large losses": (answers, -0.2),
}


def dictionary(values: dict[str, Array]) -> Values:
    return {task: dict(enumerate(each.tolist())) for task, each in values.items()}


def coverage(kind: str, documents: int, tasks: int, runs: int) -> tuple[float, float, float]:
    """Shares of runs: the interval holds the truth, the plain one does, the interval lies above the truth."""
    draw, truth = KINDS[kind]
    names = [f"t{number}" for number in range(tasks)]
    weights, held, plain, above = dict.fromkeys(names, 1.0), 0, 0, 0
    generator = np.random.default_rng([SIZES.index(documents), tasks, list(KINDS).index(kind)])
    for run in range(runs):
        pairs = {name: draw(generator, documents) for name in names}
        ours, theirs = (dictionary({name: pair[side] for name, pair in pairs.items()}) for side in (0, 1))
        difference = paired_difference(ours, theirs, weights, run)
        resampled = resampled_means(paired(ours, theirs, weights), np.random.default_rng(run))
        low, high = np.quantile(resampled, [0.025, 0.975])
        held += difference.low <= truth + 1e-12 and difference.high >= truth - 1e-12
        plain += bool(low <= truth + 1e-12 and high >= truth - 1e-12)
        above += difference.low > truth + 1e-12
    return held / runs, plain / runs, above / runs


def claims(documents: int, tasks: int, others: int, flips: float, runs: int) -> float:
    """Share of runs that claim a gain where nothing can be gained: every model answers as the base does but for a
    share of documents, drawn anew for each model, on which it is right or wrong by chance as often as the base.

    Which of such models wins on the selection documents says nothing of the report documents, so the winner is any of
    them; claimed is a gain over all `others`.
    """
    generator, claimed = np.random.default_rng([documents, tasks, others]), 0
    weights = {f"t{number}": 1.0 for number in range(tasks)}

    def model(base: Array) -> Array:
        return np.where(generator.random(base.size) < flips, generator.random(base.size) < 0.5, base).astype(float)

    for run in range(runs):
        report = {task: (generator.random(documents) < 0.5).astype(float) for task in weights}
        winner = dictionary({task: model(base) for task, base in report.items()})
        rows = [dictionary(report)] + [
            dictionary({task: model(base) for task, base in report.items()}) for _ in range(others - 1)
        ]
        claimed += all(paired_difference(winner, row, weights, run).low > 0 for row in rows)
    return claimed / runs


def main(runs: int) -> None:
    lines = [
        "# Do the intervals hold?",
        f"\n`python results/search/intervals.py {runs}`: {runs} runs a cell, "
        f"one standard error at 95 % is {100 * (0.05 * 0.95 / runs) ** 0.5:.1f}. In each cell: per cent of runs whose "
        "interval holds the truth (the plain percentile interval's), and those whose interval lies above it.\n",
        f"| answers | tasks | {' | '.join(f'{size} documents a task' for size in SIZES)} |",
        f"|{'---|' * (2 + len(SIZES))}",
    ]
    for kind in KINDS:
        for tasks in TASKS:
            cells = [coverage(kind, size, tasks, runs) for size in SIZES]
            shown = [f"{100 * held:.1f} ({100 * plain:.1f}), {100 * above:.1f}" for held, plain, above in cells]
            lines.append(f"| {kind} | {tasks} | {' | '.join(shown)} |")
            print(lines[-1], flush=True)
    lines += [
        "\n## A gain where there is none\n",
        "Per cent of runs that claim a gain over all of 8 models that differ from the base by chance only.\n",
        "| documents a task | tasks | answers that differ | claimed |",
        "|---|---|---|---|",
    ]
    for documents, tasks, flips in ((100, 1, 0.2), (400, 3, 0.05), (400, 3, 0.2), (1000, 5, 0.02), (1000, 5, 0.2)):
        share = claims(documents, tasks, 8, flips, 2 * runs)
        lines.append(f"| {documents} | {tasks} | {100 * flips:.0f} % | {100 * share:.1f} |")
        print(lines[-1], flush=True)
    (ROOT / "intervals.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
