"""Several objectives: climbs that lean towards each task in turn, and the points between where they came to.

A climb by the sum of the tasks comes to one point of the front. From there others go on by sums in which one task
weighs more; and since fine-tunes of one base are connected by lines along which nothing breaks, points between the ends
trade one task for another (Rame et al. 2023, "Rewarded soups", arXiv:2306.04488, interpolate between ends as well).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from evolve.search.steps import DEFAULTS, Settings
from evolve.trial import Point
from search_spaces.gene import Gene
from search_spaces.sensitivity import has_slope

LEAN = 4.0  # times its share: the weight of the task that a climb leans to
FIRST = replace(DEFAULTS, most=10)  # the climb by the sum of the tasks, and
LEANING = replace(DEFAULTS, most=8)  # one that leans: there are as many as tasks


def leanings(weights: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """For each task of the objective, weights that lean towards it."""
    for leant in weights:
        yield {task: weight * (LEAN if task == leant else 1.0) for task, weight in weights.items()}


def leant_to(weights: Mapping[str, float] | None, objective: Mapping[str, float]) -> str:
    """The task that these weights lean to; "" for the objective's own."""
    return max(weights, key=lambda task: weights[task] - objective[task]) if weights else ""


def climbs_of(objectives: int) -> list[Settings]:
    """How each climb of a search goes that has so many objectives."""
    return [DEFAULTS] if objectives == 1 else [FIRST, *[LEANING] * objectives]


def between(genes: Sequence[Gene], ends: Sequence[Point], most: int) -> list[Point]:
    """The middle of each two that are not the same, of the first with all others before the rest; `most` of them."""
    pairs = combinations(dict.fromkeys(ends), 2)
    return list(dict.fromkeys(middle(genes, *pair) for pair in pairs))[:most]


def middle(genes: Sequence[Gene], one: Point, other: Point) -> Point:
    """Halfway by the weights. Between two choices may lie a third one, so that all else is as in `one`."""
    return tuple((x + y) / 2 if has_slope(gene) else x for gene, x, y in zip(genes, one, other, strict=True))
