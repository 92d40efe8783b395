"""The one interface of optimizers, and the row type of `OPTIMIZERS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evolve.trial import Observation, Point
from search_spaces.gene import Gene


@dataclass(frozen=True)
class Problem:
    """What an optimizer is made from. `start` are points to ask first; the same problem asks the same points."""

    genes: tuple[Gene, ...]
    start: tuple[Point, ...]
    seed: int
    population: int


class Optimizer(Protocol):
    """`ask` gives the next generation, `tell` takes the observations of exactly that generation.

    The state is a function of the problem and of what was told, in order: telling a recorded history to a
    fresh optimizer (asking before each tell) restores it.
    """

    def ask(self) -> list[Point]: ...

    def tell(self, observations: Sequence[Observation]) -> None: ...

    def recommend(self) -> Point | None:
        """The point the optimizer believes in (CMA-ES: its mean), which was never evaluated; None if none."""
        ...


@dataclass(frozen=True)
class Row:
    make: Callable[[Problem], Optimizer]
    population: Callable[[int], int]  # genes -> candidates a generation, never derived from the workers
    doc: str
