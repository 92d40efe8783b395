"""Bayesian optimization with the kernel of kernel.py: for few, noisy candidates of mixed genes.

Each generation is drawn by Thompson sampling among random changes of the point that is believed to be best, from whole
groups of genes down to single ones; that point climbs the posterior mean within a trust region around the best point
seen. Eriksson et al., "Scalable Global Optimization via Local Bayesian Optimization", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evolve.optimizers.cma import initial_deviations
from evolve.optimizers.kernel import LEVELS, Array, Features, Posterior, depth_of, fit, places
from evolve.optimizers.optimizer import Problem
from evolve.optimizers.strategy import as_point
from evolve.trial import Observation, Point
from search_spaces.gene import Gene

CHANGES = 400  # random changes among which a generation is chosen
TRUST = 0.15  # half the width of the region in which the posterior mean is climbed, in units of the range
MUTATION = 0.3  # of the changes touch a choice or whole number
CLIMB = 60  # steps at most


class Kriging:
    """The first generation is the start points, the second moves whole groups around the best of them."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._features = Features(problem.genes)
        self._moves = [moves(problem.genes, level) for level in range(len(LEVELS))]
        self._deviations = initial_deviations(problem)
        self._points: list[Point] = []
        self._values: list[float] = []
        self._errors: list[float] = []
        self._best = np.array(problem.mean or (0.5,) * len(problem.genes))
        self._posterior: Posterior | None = None
        self._asked: list[Point] = list(problem.start)
        self._generation = 0

    def ask(self) -> list[Point]:
        self._asked = self._asked or self._next()
        return list(self._asked)

    def tell(self, observations: Sequence[Observation]) -> None:
        self._points += [seen.point for seen in observations]
        self._values += [seen.value for seen in observations]
        self._errors += [seen.standard_error for seen in observations]
        begun = self._generation > 0 or not self._problem.start
        self._asked, self._generation = [], self._generation + 1
        if begun:
            self._learn()
        elif self._problem.mean is None:
            self._best = np.array(max(observations, key=lambda seen: seen.value).point)

    def recommend(self) -> Point | None:
        """Where the posterior mean is highest."""
        return None if self._posterior is None else as_point(self._best)

    def decisions(self) -> list[dict[str, Any]]:
        return []

    def _next(self) -> list[Point]:
        generator = np.random.Generator(np.random.PCG64([self._problem.seed, self._generation]))
        if self._posterior is None:
            changed = self._changes(generator, self._problem.population, self._moves[:1])
            return [as_point(point) for point in changed]
        changed = self._changes(generator, CHANGES, self._moves)
        draws = self._posterior.sample(changed, self._problem.population, generator)
        chosen: list[int] = []
        for draw in draws.T:
            draw[chosen] = -np.inf  # nobody is asked twice
            chosen.append(int(np.argmax(draw)))
        return [as_point(changed[index]) for index in chosen]

    def _changes(self, generator: np.random.Generator, count: int, levels: list[Array]) -> Array:
        """`count` points around the best: normal moves of groups at some of the levels, of about the initial deviation
        over all genes, and other choices."""
        sums = np.zeros((count, len(self._best)))
        for members in levels:
            drawn = generator.standard_normal((count, members.shape[1]))
            taken = generator.random((count, 1)) < (0.5 if len(levels) > 1 else 1.0)
            sums += np.where(taken, drawn, 0.0) @ members.T
        if len(levels) > 1:
            size = np.sqrt(np.mean(sums**2, axis=1, keepdims=True))
            spread = np.exp(0.5 * generator.standard_normal((count, 1)))
            sums = np.where(size > 0, sums * spread / np.maximum(size, 1e-12), 0.0)
        points: Array = np.clip(self._best + sums * self._deviations, 0.0, 1.0)
        for index, gene in enumerate(self._problem.genes):
            if gene.choices or gene.integer:
                other, taken = generator.random(count), generator.random(count) < MUTATION
                centers = np.array([gene.to_unit(gene.from_unit(unit)) for unit in other])
                points[:, index] = np.where(taken, centers, points[:, index])
        return points

    def _learn(self) -> None:
        points = np.array(self._points)
        theta = None if self._posterior is None else self._posterior.theta
        self._posterior = fit(self._features, points, np.array(self._values), np.array(self._errors), theta)
        top = points[int(np.argmax(self._posterior.mean(points)))]
        self._best = climbed(self._posterior, top, self._problem.genes)


def climbed(posterior: Posterior, point: Array, genes: tuple[Gene, ...]) -> Array:
    """The highest posterior mean within the trust region around `point`, (d,); discrete genes stay as they are."""
    from scipy.optimize import minimize

    reach = np.array([0.0 if gene.choices or gene.integer else TRUST for gene in genes])

    def loss(at: Array) -> tuple[float, Array]:
        value, slope = posterior.slope(at)
        return -value, -slope

    bounds = list(zip(np.maximum(point - reach, 0.0), np.minimum(point + reach, 1.0), strict=True))
    found: Array = minimize(loss, point, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": CLIMB}).x
    return found


def moves(genes: tuple[Gene, ...], level: int) -> Array:
    """(d, groups): 1 where a continuous gene belongs to a group of the level."""
    keys = [places(index, gene, depth_of(genes))[0][level] for index, gene in enumerate(genes)]
    order = {key: column for column, key in enumerate(dict.fromkeys(keys))}
    members = np.zeros((len(genes), len(order)))
    for index, (gene, key) in enumerate(zip(genes, keys, strict=True)):
        members[index, order[key]] = 0.0 if gene.choices or gene.integer else 1.0
    return members
