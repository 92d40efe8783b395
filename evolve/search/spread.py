"""Several objectives: climbs that lean towards each task in turn, and the points between where they came to.

A climb by the sum of the tasks comes to one point of the front. From there others go on by sums in which one task
weighs more; and since fine-tunes of one base are connected by lines along which nothing breaks, points between the ends
trade one task for another (Rame et al. 2023, "Rewarded soups", arXiv:2306.04488, interpolate between ends as well).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from evolve.search.descent import mean
from evolve.trial import Point

LEAN = 4.0  # times its share: the weight of the task that a climb leans to
FIRST_STEPS = 10  # at most, of the climb by the sum of the tasks: there is one more for each of them
LEANING_STEPS = 8  # of one that leans


def leanings(weights: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """For each task of the objective, weights that lean towards it."""
    for leant in weights:
        yield {task: weight * (LEAN if task == leant else 1.0) for task, weight in weights.items()}


def leant_to(weights: Mapping[str, float] | None, objective: Mapping[str, float]) -> str:
    """The task that these weights lean to; "" for the objective's own."""
    return max(weights, key=lambda task: weights[task] - objective[task]) if weights else ""


def between(ends: Sequence[Point]) -> list[Point]:
    """The middle of each two that are not the same."""
    return list(dict.fromkeys(mean(pair) for pair in combinations(dict.fromkeys(ends), 2)))
