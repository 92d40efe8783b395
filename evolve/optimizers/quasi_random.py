"""A scrambled Sobol sequence in the unit cube (Sobol 1967; Owen 1998): random search that leaves smaller holes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from evolve.optimizers.optimizer import Problem
from evolve.trial import Observation, Point


class QuasiRandom:
    """The start points, then the sequence. Choices and whole numbers have equal shares of the interval."""

    def __init__(self, problem: Problem) -> None:
        from scipy.stats import qmc

        self._problem = problem
        self._sequence: Any = qmc.Sobol(len(problem.genes), seed=problem.seed % 2**32)
        self._asked: list[Point] = list(problem.start)

    def ask(self) -> list[Point]:
        self._asked = self._asked or self._next()
        return list(self._asked)

    def more(self) -> list[Point]:
        """The sequence goes on."""
        return self._next()

    def _next(self) -> list[Point]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes that are no power of two
            points = self._sequence.random(self._problem.population)
        return [
            tuple(
                gene.to_unit(gene.from_unit(float(unit))) for gene, unit in zip(self._problem.genes, point, strict=True)
            )
            for point in points
        ]

    def tell(self, observations: Sequence[Observation]) -> None:
        del observations  # which the sequence does not depend on
        self._asked = []

    def inject(self, observations: Sequence[Observation]) -> None:
        """As `tell`."""
        self.tell(observations)

    def recommend(self) -> Point | None:
        return None

    def decisions(self) -> list[dict[str, Any]]:
        return []
