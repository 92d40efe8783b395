"""CMA-ES by pycma, in the unit cube, started at the best of the start points.

Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from evolve.optimizers.optimizer import Problem
from evolve.trial import Observation, Point

STEP = 0.2  # initial standard deviation of every gene, in units of its range
BORDER = 0.1  # the mean starts at least this far inside, so that half of the first samples are not clipped


class CmaEs:
    """The first generation is the start points; the distribution then begins at the best of them."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._strategy: Any = None
        self._asked: list[Point] = []
        self._best_start: Point | None = None

    def ask(self) -> list[Point]:
        if self._strategy is None and self._best_start is None and self._problem.start:
            self._asked = list(self._problem.start)
        else:
            if self._strategy is None:
                self._strategy = self._begin()
            with silence():
                self._asked = [as_point(x) for x in self._strategy.ask()]
        return self._asked

    def tell(self, observations: Sequence[Observation]) -> None:
        if self._strategy is None:
            self._best_start = max(observations, key=lambda seen: seen.value).point
            return
        # The recorded points are the truth: where asking again gave others, pycma takes them as injected.
        with silence():
            self._strategy.tell([list(seen.point) for seen in observations], [-seen.value for seen in observations])

    def recommend(self) -> Point | None:
        return None if self._strategy is None else as_point(self._strategy.result.xfavorite)

    def decisions(self) -> list[dict[str, Any]]:
        return []

    def _begin(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about matplotlib, which it would plot with
            import cma
        d = len(self._problem.genes)
        start = np.array(self._problem.mean or self._best_start or (0.5,) * d)
        # pycma draws from numpy's global generator unless it is given one.
        generator = np.random.RandomState(self._problem.seed % 2**32)
        options = {
            "bounds": [0.0, 1.0],
            "popsize": self._problem.population,
            "seed": np.nan,  # do not seed numpy's global generator
            "randn": lambda *shape: generator.randn(*shape),
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
        }
        with silence():
            return cma.CMAEvolutionStrategy(np.clip(start, BORDER, 1 - BORDER), STEP, options)


@contextmanager
def silence() -> Iterator[None]:
    """pycma warns of its own choices (small populations, flat values), which no user can act upon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def as_point(x: Any) -> Point:
    return tuple(float(value) for value in np.clip(x, 0.0, 1.0))


def default_population(d: int) -> int:
    """4 + floor(3 ln d), equation (48) of the tutorial, and even so that workers in pairs stay busy."""
    population = 4 + int(3 * math.log(max(d, 1)))
    return population + population % 2
