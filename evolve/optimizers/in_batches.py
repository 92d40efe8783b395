"""An optimizer of generations for a search that has none.

Points are drawn from the distribution as it stands, as many as are wanted. Whatever comes back first fills the next
generation: some of it was drawn one or more generations ago, which CMA-ES bears as it bears injected solutions (Hansen
2011, "Injecting external solutions into CMA-ES", arXiv:1110.4181). With far more workers than a population, most of it
is that old: a larger population then learns more from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from evolve.optimizers.optimizer import Optimizer
from evolve.trial import Observation, Point


class Drawing(Optimizer, Protocol):
    def more(self) -> Sequence[Point]:
        """Another generation from the same distribution, beside what `ask` gave."""
        ...

    def inject(self, observations: Sequence[Observation]) -> None:
        """`tell`, of points whoever drew them, and when."""
        ...


class InBatches:
    """`optimizer` has been told its start points."""

    def __init__(self, optimizer: Drawing) -> None:
        self._optimizer = optimizer
        self._asked: list[Point] = list(optimizer.ask())
        self._population = len(self._asked)
        self._seen: list[Observation] = []

    def draw(self) -> Point:
        if not self._asked:
            self._asked = list(self._optimizer.more())
        return self._asked.pop(0)

    def learn(self, seen: Observation) -> None:
        self._seen.append(seen)
        if len(self._seen) == self._population:
            self._optimizer.inject(self._seen)
            self._asked, self._seen = list(self._optimizer.ask()), []
            self._population = len(self._asked)

    def recommend(self) -> Point | None:
        return self._optimizer.recommend()

    def decisions(self) -> list[dict[str, Any]]:
        return self._optimizer.decisions()
