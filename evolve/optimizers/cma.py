"""CMA-ES over single genes, in the unit cube; it begins anew, with twice the population, when it has converged.

Auger and Hansen, "A Restart CMA Evolution Strategy With Increasing Population Size", CEC 2005. Against noise it has
its population alone: on recipes of 65 and 183 genes scored on 160 documents, 16 candidates a generation came further
than 10, and 6 lost what the start had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evolve.optimizers.optimizer import Problem
from evolve.optimizers.strategy import Vector, as_point, margins, silence, strategy
from evolve.trial import Observation, Point

STEP = 0.15  # initial standard deviation of every gene, in units of its range
BORDER = 0.02  # the mean starts at least this far inside, where pycma's transformation of the bounds is not flat
CONVERGED = 1e-3  # standard deviations, in units of the range, below which recipes differ by their rounding only
MOST = 8  # times the first population, in which restarts end


class CmaEs:
    """The first generation is the start points; the distribution then begins at the best of them."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._strategy: Any = None
        self._asked: list[Point] = []
        self._begun = not problem.start
        self._center: Point = problem.mean or (0.5,) * len(problem.genes)
        self._population = problem.population
        self._restarts = 0
        self._best: tuple[float, Point] | None = None  # of the means of finished runs, by their last generation
        self._current = -np.inf
        self._decisions: list[dict[str, Any]] = []

    def ask(self) -> list[Point]:
        if not self._asked:
            self._asked = self._next()
        return list(self._asked)

    def _next(self) -> list[Point]:
        if not self._begun:
            return list(self._problem.start)
        if self._strategy is None:
            self._strategy = self._begin()
        with silence():
            return [as_point(x) for x in self._strategy.ask()]

    def more(self) -> list[Point]:
        """Another generation from the same distribution."""
        return self._next()

    def tell(self, observations: Sequence[Observation]) -> None:
        self._asked = []
        if not self._begun:
            self._begun = True
            if self._problem.mean is None:
                self._center = max(observations, key=lambda seen: seen.value).point
            return
        # The recorded points are the truth: where asking again gave others, pycma takes them as injected.
        self._learn(observations)

    def inject(self, observations: Sequence[Observation]) -> None:
        """Tell of points whoever drew them, and when: a function of these alone."""
        self._asked = []
        self._strategy.sent_solutions.clear()
        self._learn(observations)

    def _learn(self, observations: Sequence[Observation]) -> None:
        with silence():
            self._strategy.tell([list(seen.point) for seen in observations], [-seen.value for seen in observations])
        self._current = float(np.mean([seen.value for seen in observations]))
        if stopped := self._stopped():
            self._restart(stopped)

    def recommend(self) -> Point | None:
        if self._strategy is None:
            return None if self._best is None else self._best[1]
        if self._best is not None and self._best[0] > self._current:
            return self._best[1]
        return as_point(self._strategy.result.xfavorite)

    def decisions(self) -> list[dict[str, Any]]:
        decided, self._decisions = self._decisions, []
        return decided

    def _stopped(self) -> str:
        if bool(np.all(self._strategy.stds <= np.maximum(CONVERGED, 1.01 * margins(self._problem.genes)))):
            return "the steps are below a recipe's rounding"
        with silence():
            return ", ".join(self._strategy.stop())

    def _restart(self, why: str) -> None:
        reached = (self._current, as_point(self._strategy.result.xfavorite))
        self._best = max(self._best or reached, reached)
        self._restarts += 1
        self._population = min(2 * self._population, MOST * self._problem.population)
        self._strategy = None
        self._decisions.append({"kind": "restart", "why": why, "population": self._population})

    def _begin(self) -> Any:
        center = np.clip(np.array(self._center), BORDER, 1 - BORDER)
        least = margins(self._problem.genes)
        deviations = np.maximum(initial_deviations(self._problem), least)
        seed = self._problem.seed + 1_000_003 * self._restarts
        return strategy(center, deviations, least, self._population, seed, (0.0, 1.0))


def initial_deviations(problem: Problem) -> Vector:
    """Standard deviations to begin with, (d,), in units of the genes' ranges."""
    if problem.deviations is None:
        return np.full(len(problem.genes), STEP)
    return np.array([max(deviation, CONVERGED) for deviation in problem.deviations])
