"""What scores on documents say of models: standard errors and paired bootstrap intervals.

Documents are resampled within each task, the same ones for both models, since models are compared on the same
documents (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; Koehn 2004 for paired systems).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Values = Mapping[str, Mapping[int, float]]  # task -> document id -> value, higher is better

RESAMPLES = 10_000
CHUNK = 500  # resamples drawn at once, which bounds memory


@dataclass(frozen=True)
class Difference:
    """A difference of weighted means over tasks, with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def standard_error(values: Values, weights: Mapping[str, float]) -> float:
    """Of the weighted mean over tasks, from the spread between documents."""
    total = sum(weights[task] for task in values)
    variance = 0.0
    for task, each in values.items():
        scores = np.array(list(each.values()))
        if scores.size > 1:
            with np.errstate(over="ignore", invalid="ignore"):  # perplexities of broken models
                variance += (weights[task] / total) ** 2 * float(scores.var(ddof=1)) / scores.size
    return math.sqrt(variance)


def paired_difference(ours: Values, theirs: Values, weights: Mapping[str, float], seed: int) -> Difference:
    """`ours` minus `theirs` on the documents that both have, with a 95 % percentile interval.

    Raises ValueError where the two were not scored on the same documents.
    """
    generator = np.random.default_rng(seed)
    total = sum(weights[task] for task in ours)
    mean, resampled = 0.0, np.zeros(RESAMPLES)
    for task, each in ours.items():
        if each.keys() != theirs[task].keys():
            raise ValueError(f"{task}: the two models were scored on different documents")
        gaps = np.array([each[document] - theirs[task][document] for document in each])
        share = weights[task] / total
        mean += share * float(gaps.mean())
        for start in range(0, RESAMPLES, CHUNK):
            drawn = generator.integers(gaps.size, size=(CHUNK, gaps.size))
            resampled[start : start + CHUNK] += share * gaps[drawn].mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Difference(mean, float(low), float(high))
