"""A Gaussian process over recipes that knows which genes belong together.

The squared distance of two points is a sum over levels: of the means of whole (parameter, model) groups, of their
module groups, of thirds of the depth, and of single genes. Each level has a weight that is learned: of the coarse ones
if a source's layers act alike, of the finest if each is of its own kind. Few observations are enough to tell, where a
length scale for every gene would need hundreds. Rasmussen and Williams, "Gaussian Processes for Machine Learning",
2006, chapters 2 and 5.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.gene import Gene

Array = NDArray[np.float64]

LEVELS = (4.0, 1.0, 1.0, 1.0)  # prior medians of the levels' weights, per squared range of a gene
WIDTHS = (1.0, 0.5, 1.0, 1.0, 1.0, 1.0)  # of the log-normal priors of the variance, the noise and the levels
AMPLITUDE = 0.1  # prior median of the standard deviation of values
OTHER_CHOICE = 0.25  # squared distance of two choices, in squared ranges
STEPS = 8  # of the fit to each generation, from where the last one ended
JITTER = 1e-6  # of the variance, on the diagonal of a covariance


class Features:
    """Points as the kernel sees them: at each level the means of groups, weighted by their share of the coarsest."""

    def __init__(self, genes: tuple[Gene, ...]) -> None:
        self._genes = genes
        keys = [key for index, gene in enumerate(genes) for key in places(index, gene, depth_of(genes))]
        self.maps = [averages([key[0] for key in keys], [key[level] for key in keys]) for level in range(len(LEVELS))]

    def columns(self, points: Array) -> Array:
        """(n, d) points as (n, c) numbers: a choice is one column per option, other genes are one each."""
        parts = [
            options(gene, points[:, index]) if gene.choices else points[:, index : index + 1]
            for index, gene in enumerate(self._genes)
        ]
        return np.concatenate(parts, axis=1)

    def of(self, points: Array) -> list[Array]:
        """(n, d) points as one (n, groups) array per level."""
        columns = self.columns(points)
        return [columns @ level.T for level in self.maps]

    def pull_back(self, gradient: Array) -> Array:
        """The gradient by columns, (c,), as one by genes, (d,); 0 for choices, which have none."""
        result, at = np.zeros(len(self._genes)), 0
        for index, gene in enumerate(self._genes):
            if not gene.choices:
                result[index] = gradient[at]
            at += len(gene.choices) or 1
        return result


def options(gene: Gene, units: Array) -> Array:
    """One column per choice; two points of different choices are OTHER_CHOICE apart."""
    count = len(gene.choices)
    chosen = np.minimum((units * count).astype(int), count - 1)
    result: Array = np.eye(count)[chosen] * math.sqrt(OTHER_CHOICE / 2)
    return result


def depth_of(genes: tuple[Gene, ...]) -> int:
    return 1 + max((gene.position for gene in genes if gene.position is not None), default=0)


def places(index: int, gene: Gene, depth: int) -> list[tuple[Hashable, ...]]:
    """Of every column of a gene, the groups that it belongs to by level; one of no known place is its own at each."""
    if gene.choices or gene.integer or not gene.parameter:
        return [((index, option),) * len(LEVELS) for option in range(len(gene.choices) or 1)]
    whole = (gene.method, gene.parameter, gene.model)
    third = -1 if gene.position is None else gene.position * 3 // depth
    return [(whole, (*whole, gene.group), (*whole, gene.group, third), (index,))]


def averages(coarsest: list[Hashable], groups: list[Hashable]) -> Array:
    """(groups, columns): means of groups times the root of their share of the columns of their coarsest group."""
    order = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    sizes, wholes = Counter(groups), Counter(coarsest)
    result = np.zeros((len(order), len(groups)))
    for column, (group, whole) in enumerate(zip(groups, coarsest, strict=True)):
        result[order[group], column] = math.sqrt(sizes[group] / wholes[whole]) / sizes[group]
    return result


@dataclass(frozen=True)
class Posterior:
    """What is believed of values after n observations: `theta` are the logs of variance, noise and level weights."""

    features: Features
    theta: Array
    level: float  # the mean that values return to far from all observations
    seen: list[Array]  # features of the observed points, (n, groups) per level
    columns: Array  # (n, c)
    root: Array  # lower Cholesky factor of the observations' covariance, (n, n)
    weights: Array  # its inverse times the observations, (n,)

    def mean(self, points: Array) -> Array:
        """(n, d) points -> (n,) expected values."""
        result: Array = self.level + self._cross(points) @ self.weights
        return result

    def slope(self, point: Array) -> tuple[float, Array]:
        """The expected value at a point, (d,), and its gradient."""
        cross = self._cross(point[None])[0]
        away = self.columns - self.features.columns(point[None])
        by_column = np.zeros(self.columns.shape[1])
        for weight, level in zip(np.exp(self.theta[2:]), self.features.maps, strict=True):
            by_column += weight * (((self.weights * cross) @ away) @ level.T) @ level
        return float(self.level + cross @ self.weights), self.features.pull_back(by_column)

    def sample(self, points: Array, count: int, generator: np.random.Generator) -> Array:
        """`count` joint draws of the values at (n, d) points: (n, count)."""
        of = self.features.of(points)
        cross = covariance(self.theta, distances(of, self.seen))
        solved = np.linalg.solve(self.root, cross.T)
        left = covariance(self.theta, distances(of, of)) - solved.T @ solved
        left += 10 * JITTER * math.exp(self.theta[0]) * np.eye(len(points))
        values, vectors = np.linalg.eigh(left)
        draws = generator.standard_normal((len(points), count))
        result: Array = (self.level + cross @ self.weights)[:, None] + vectors @ (
            np.sqrt(np.maximum(values, 0.0))[:, None] * draws
        )
        return result

    def _cross(self, points: Array) -> Array:
        return covariance(self.theta, distances(self.features.of(points), self.seen))


def distances(one: list[Array], other: list[Array]) -> list[Array]:
    """Squared distances by level, each (n, m)."""
    return [
        np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)
        for a, b in zip(one, other, strict=True)
    ]


def covariance(theta: Array, by_level: list[Array]) -> Array:
    exponent = sum(math.exp(weight) * level for weight, level in zip(theta[2:], by_level, strict=True))
    result: Array = math.exp(theta[0]) * np.exp(-0.5 * np.asarray(exponent))
    return result


def fit(features: Features, points: Array, values: Array, errors: Array, theta: Array | None) -> Posterior:
    """The posterior after (n, d) points with (n,) values of (n,) standard errors, by the most likely theta under its
    prior; `theta` is where the last fit ended.

    The level is the mean without the worst quarter, since failures and wild starts tell little of the rest.
    """
    from scipy.optimize import minimize

    level, seen = float(np.mean(values[values >= np.quantile(values, 0.25)])), features.of(points)
    error = float(np.median(errors[errors > 0])) if np.any(errors > 0) else 0.01
    noise = np.maximum((errors / error) ** 2, 0.25)
    prior = np.log([AMPLITUDE**2, error**2, *LEVELS])
    by_level = distances(seen, seen)

    def solve(at: Array) -> tuple[Array, Array]:
        matrix = covariance(at, by_level) + np.diag(math.exp(at[1]) * noise + JITTER * math.exp(at[0]))
        root: Array = np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
        weights: Array = np.linalg.solve(root.T, np.linalg.solve(root, values - level))
        return root, weights

    def surprise(at: Array) -> float:
        root, weights = solve(at)
        far = float((((at - prior) / WIDTHS) ** 2).sum())
        return 0.5 * float((values - level) @ weights) + float(np.log(np.diag(root)).sum()) + 0.5 * far

    bounds = [(center - 4 * width, center + 4 * width) for center, width in zip(prior, WIDTHS, strict=True)]
    begin = prior if theta is None else np.clip(theta, *np.array(bounds).T)
    best = minimize(surprise, begin, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}).x
    return Posterior(features, best, level, seen, features.columns(points), *solve(best))
