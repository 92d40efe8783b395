"""The one interface of optimizers, and the row type of `OPTIMIZERS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evolve.trial import Observation, Point
from search_spaces.gene import Gene


@dataclass(frozen=True)
class Problem:
    """What an optimizer is made from; the same problem asks the same points.

    `start`: points to ask first. `mean`: where a distribution begins, instead of at the best of `start`. `deviations`:
    the initial standard deviation of every gene, in units of its range. `importance`: of every gene, >= 0, in any unit.
    `objectives`: how many Observation.values there are to be maximised at once; 1: Observation.value is. `grow`: begin
    with few groups of genes and split them as documents are spent.
    """

    genes: tuple[Gene, ...]
    start: tuple[Point, ...]
    seed: int
    population: int
    mean: Point | None = None
    deviations: tuple[float, ...] | None = None
    importance: tuple[float, ...] | None = None
    objectives: int = 1
    grow: bool = False


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

    def decisions(self) -> list[dict[str, Any]]:
        """What it decided since this was last asked, as plain data with a `kind`: the same history, the same list."""
        ...


class Steady(Protocol):
    """An optimizer without generations, once it has been told its start points.

    `learn` takes observations one by one, in whatever order they come, also of points that another start had drawn.
    """

    def draw(self) -> Point:
        """One point from what is believed now."""
        ...

    def learn(self, seen: Observation) -> None: ...

    def recommend(self) -> Point | None: ...

    def decisions(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Row:
    """One row of OPTIMIZERS. `several`: bears several objectives; `front`: looks for a front, so that each task is
    an objective; `grows`: heeds Problem.grow; `steady`: how it goes without generations, None: not at all."""

    make: Callable[[Problem], Optimizer]
    population: Callable[[int], int]  # genes -> candidates a generation, never derived from the workers
    doc: str
    several: bool = False
    front: bool = False
    grows: bool = False
    steady: Callable[[Any], Steady] | None = None
