"""What scores on documents say of models: standard errors and paired bootstrap intervals.

Documents are resampled within each task, the same ones for both models, since models are compared on the same
documents (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; Koehn 2004 for paired systems).

The plain percentile interval is too short for few documents, and of no width at all where two models happen to answer
alike: of 16 right-or-wrong answers with a true difference of .08 it holds the truth in three runs of four. It is
therefore stretched about its mean by what the percentiles of resamples miss (results/search has the coverage):
- t's quantile in place of the normal one, with Welch and Satterthwaite's degrees of freedom over tasks, and n - 1 for n
  (Hesterberg 2015, "What Teachers Should Know About the Bootstrap");
- a spread that counts one document more on which only the one model is right, and one on which only the other is, half
  each, together for all tasks (after Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
  proportions"). It fades with the number of documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = Mapping[str, Mapping[int, float]]  # task -> document id -> value, higher is better
Array = npt.NDArray[np.float64]

RESAMPLES = 10_000
CHUNK = 500  # resamples drawn at once, which bounds memory
FEW = 64  # distinct differences, at most, that are drawn by their numbers and not one by one
NORMAL = 1.959964  # standard errors to each side of a 95 % interval
PSEUDO = 1.0  # documents beside the real ones, half to each side, over all tasks


@dataclass(frozen=True)
class Difference:
    """A difference of weighted means over tasks, with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Gaps:
    """One task's differences between two models, by ascending document; `most`: how far apart two answers can be, or
    were at most where that is not known; `share`: the task's of the mean; `bound`: how far apart they can be."""

    values: Array
    most: float
    share: float
    bound: float = math.inf


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
    """`ours` minus `theirs` on the documents that both have, with its 95 % interval.

    Raises ValueError where the two were not scored on the same documents.
    """
    tasks = paired(ours, theirs, weights)
    mean = math.fsum(task.share * float(task.values.mean()) for task in tasks)
    resampled = resampled_means(tasks, np.random.default_rng(seed)) - mean
    spread = math.sqrt(sum(task.share**2 * float(task.values.var()) / task.values.size for task in tasks))
    error, freedom = widened(tasks)
    if spread:
        stretch = t_quantile(freedom) / NORMAL * error / spread
        low, high = (stretch * float(each) for each in np.quantile(resampled, [0.025, 0.975]))
    else:
        low, high = -t_quantile(freedom) * error, t_quantile(freedom) * error
    bound = math.fsum(task.share * task.bound for task in tasks)
    return Difference(mean, max(mean + low, -bound), min(mean + high, bound))


def clearly_below(ours: Values, theirs: Values, weights: Mapping[str, float], errors: float) -> bool:
    """Whether `ours` is below `theirs` by more than so many standard errors of their paired difference."""
    mean, error = mean_and_error(ours, theirs, weights)
    return mean < -errors * error


def mean_and_error(ours: Values, theirs: Values, weights: Mapping[str, float]) -> tuple[float, float]:
    """The paired difference and its standard error, as the interval has them."""
    tasks = paired(ours, theirs, weights)
    return math.fsum(task.share * float(task.values.mean()) for task in tasks), widened(tasks)[0]


def paired(ours: Values, theirs: Values, weights: Mapping[str, float]) -> list[Gaps]:
    """The differences of each task."""
    total = sum(weights[task] for task in ours)
    result = []
    for task, each in ours.items():
        if each.keys() != theirs[task].keys():
            raise ValueError(f"{task}: the two models were scored on different documents")
        pairs = np.array([(each[document], theirs[task][document]) for document in sorted(each)], dtype=np.float64)
        gaps = pairs[:, 0] - pairs[:, 1]
        right_or_wrong = bool(np.isin(np.abs(pairs), (0.0, 1.0)).all())
        share = weights[task] / total
        result.append(Gaps(gaps, 1.0, share, 1.0) if right_or_wrong else Gaps(gaps, float(np.abs(gaps).max()), share))
    return result


def resampled_means(tasks: Sequence[Gaps], generator: np.random.Generator) -> Array:
    """Weighted means over tasks of `RESAMPLES` draws with replacement from each task's differences."""
    result = np.zeros(RESAMPLES)
    for task in tasks:
        values, places, counts = np.unique(task.values, return_index=True, return_counts=True)
        if values.size <= FEW:
            order = np.argsort(places)  # by first appearance: turning the comparison then only turns the sign
            drawn = generator.multinomial(task.values.size, counts[order] / task.values.size, size=RESAMPLES)
            result += task.share / task.values.size * (drawn @ values[order])
            continue
        for start in range(0, RESAMPLES, CHUNK):
            chunk = result[start : start + CHUNK]
            indices = generator.integers(task.values.size, size=(chunk.size, task.values.size))
            chunk += task.share * task.values[indices].mean(axis=1)
    return result


def widened(tasks: Sequence[Gaps]) -> tuple[float, float]:
    """The standard error of the weighted mean with the pseudo-documents counted, and its degrees of freedom."""
    variances, sizes = [], []
    for task in tasks:
        size = task.values.size
        if size < 2:  # nothing is known of its spread
            continue
        squares = float(((task.values - task.values.mean()) ** 2).sum()) + PSEUDO / len(tasks) * task.most**2
        variances.append(task.share**2 * squares / (size - 1) / size)
        sizes.append(size)
    total = sum(variances)
    if not total:
        return 0.0, math.inf
    # In parts of the total: squares of tiny variances would be 0.
    freedom = 1 / sum((each / total) ** 2 / (size - 1) for each, size in zip(variances, sizes, strict=True))
    return math.sqrt(total), freedom


def t_quantile(freedom: float) -> float:
    """Student's 97.5 % quantile by its expansion about the normal one (Abramowitz and Stegun 1964, 26.7.5), exact to
    .001 from eight degrees of freedom on; fewer count as three."""
    z, nu = NORMAL, max(freedom, 3.0)
    return (
        z
        + (z**3 + z) / 4 / nu
        + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / nu**2
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / nu**3
    )
