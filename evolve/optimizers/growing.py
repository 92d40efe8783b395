"""CMA-ES whose genes move together at first and part as documents are spent.

A candidate is x = clip(anchor + B z): CMA-ES samples z, the columns of B are the moves. At first there is one per
parameter and model, 1 on all its genes. Where a group is split, B gains a column of +1 on its first part and, weighted
by their sizes, -1 on the second, as Haar wavelets do: the coarse moves stay what they were, with the step sizes that
they have by now, and the finer one begins at zero. At the end the columns span all genes. Starting over on the parts
instead forgets what the coarse steps had learned, and came half as far.

When it grows depends on what was told alone, never on a budget: a longer search begins like a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evolve.optimizers.cma import CONVERGED, CmaEs, initial_deviations
from evolve.optimizers.optimizer import Optimizer, Problem
from evolve.optimizers.partition import Group, coarsest, name_of, split
from evolve.optimizers.strategy import Vector, as_point, margins, silence, strategy
from evolve.trial import Observation, Point

PER_MOVE = 2.0  # whole scorings per move before the groups are split
WIDENING = 1.0  # of the steps since a level began: beyond, the level still gets on and has more time
PATIENCE = 4.0  # times PER_MOVE, for a level that still gets on
STAGNANT = 4  # generations without a better mean, after which they are split anyway
WORTH = 0.25  # of the mean importance of the groups that can be split: below, a group stays whole


def growing_or_plain(problem: Problem) -> Optimizer:
    """Growing where the loop asks for it and some genes can move together, else CMA-ES over single genes."""
    return (
        Growing(problem)
        if problem.grow and any(len(group) > 1 for group in coarsest(problem.genes))
        else CmaEs(problem)
    )


class Growing:
    """The first generation is the start points; the anchor is the best of them, or Problem.mean."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._deviations = initial_deviations(problem)
        self._least = margins(problem.genes)
        self._importance = np.array(problem.importance or (1.0,) * len(problem.genes))
        self._anchor = np.array(problem.mean or (0.5,) * len(problem.genes))
        self._groups = coarsest(problem.genes)
        self._moves = np.stack([indicator(group, len(problem.genes)) for group in self._groups], axis=1)
        self._scale = np.array([self._step(group) for group in self._groups])  # initial deviation of every move
        self._mean = np.zeros(len(self._groups))
        self._entered = self._scale  # deviations when this level began
        self._begun = not problem.start
        self._level = 0
        self._strategy: Any = None
        self._asked: list[tuple[Point, Vector]] = []
        self._spent = 0.0
        self._most = 1
        self._means: list[float] = []  # of the values of each generation at this level
        self._decisions: list[dict[str, Any]] = []

    def ask(self) -> list[Point]:
        if not self._asked:
            self._asked = self._next()
        return [point for point, _ in self._asked]

    def more(self) -> list[Point]:
        """Another generation from the same distribution."""
        return [point for point, _ in self._next()]

    def _next(self) -> list[tuple[Point, Vector]]:
        if not self._begun:
            return [(point, np.zeros(0)) for point in self._problem.start]
        if self._strategy is None:
            self._strategy = self._begin(self._scale)
        with silence():
            drawn = [np.asarray(z) for z in self._strategy.ask()]
        return [(self._point(z), z) for z in drawn]

    def tell(self, observations: Sequence[Observation]) -> None:
        asked, self._asked = self._asked, []
        self._most = max(self._most, *(seen.documents for seen in observations))
        if not self._begun:
            self._begun = True
            if self._problem.mean is None:
                self._anchor = np.array(max(observations, key=lambda seen: seen.value).point)
            return
        drawn = [self._moved(seen.point, *pair) for seen, pair in zip(observations, asked, strict=True)]
        self._learn(observations, drawn)

    def inject(self, observations: Sequence[Observation]) -> None:
        """Tell of points whoever drew them, and when: a function of these alone."""
        self._asked = []
        self._most = max(self._most, *(seen.documents for seen in observations))
        self._strategy.sent_solutions.clear()
        drawn = [self._moved(seen.point, tuple(self._anchor), np.zeros(len(self._mean))) for seen in observations]
        self._learn(observations, drawn)

    def _learn(self, observations: Sequence[Observation], drawn: Sequence[Vector]) -> None:
        with silence():
            self._strategy.tell(drawn, [-seen.value for seen in observations])
        self._spent += sum(seen.documents for seen in observations) / self._most
        self._means.append(float(np.mean([seen.value for seen in observations])))
        if why := self._ripe():
            self._grow(why)

    def recommend(self) -> Point | None:
        return None if not self._means and not self._level else self._point(self._favorite())

    def decisions(self) -> list[dict[str, Any]]:
        decided, self._decisions = self._decisions, []
        return decided

    def _begin(self, deviations: Vector) -> Any:
        least = np.array([self._least[np.abs(move) > 0].min() for move in self._moves.T])
        seed = self._problem.seed + 1_000_003 * self._level
        self._entered = np.maximum(deviations, least)
        return strategy(self._mean, self._entered, least, self._problem.population, seed)

    def _favorite(self) -> Vector:
        return self._mean if self._strategy is None else np.array(self._strategy.result.xfavorite, dtype=float)

    def _point(self, z: Vector) -> Point:
        return as_point(self._anchor + self._moves @ z)

    def _moved(self, told: Point, asked: Point, z: Vector) -> Vector:
        """What was drawn for a point; corrected where another one had been asked for than was told: moves are
        orthogonal, so that what lies between the two is projected on each of them."""
        if told == asked:
            return z
        between = np.array(told) - np.array(asked)
        moved: Vector = z + between @ self._moves / np.sum(self._moves**2, axis=0)
        return moved

    def _ripe(self) -> str:
        """Why it is time to split, from what was told at this level alone; empty: it is not."""
        widening = float(np.median(self._strategy.stds / self._entered)) > WIDENING
        if self._spent >= (PATIENCE if widening else 1.0) * PER_MOVE * len(self._mean):
            return f"{self._spent:.0f} scorings for {len(self._mean)} moves"
        if len(self._means) - 1 - int(np.argmax(self._means)) >= STAGNANT:
            return f"no better generation in {STAGNANT}"
        if bool(np.all(self._strategy.stds <= CONVERGED)):
            return "the steps are below a recipe's rounding"
        return ""

    def _grow(self, why: str) -> None:
        """Split the groups that are worth it and begin again at the mean that was reached."""
        parted = [(group, parts) for group in self._worth() if (parts := split(group, self._problem.genes))]
        now = np.asarray(self._strategy.stds, dtype=float)
        if not parted and np.all(now > CONVERGED):
            return  # all genes are free, and the search goes on as it is
        self._mean = self._favorite()
        ratio = float(np.median(now / self._scale)) if parted else 1.0
        finer = np.array([ratio * self._step(group) for group, _ in parted])
        columns = [contrast(parts, len(self._problem.genes)) for _, parts in parted]
        self._decisions.append(self._decision(why, parted))
        self._moves = np.concatenate([self._moves, *(column[:, None] for column in columns)], axis=1)
        self._mean = np.concatenate([self._mean, np.zeros(len(parted))])
        self._scale = np.concatenate([self._scale, [self._step(group) for group, _ in parted]])
        gone = {group for group, _ in parted}
        self._groups = [group for group in self._groups if group not in gone] + [
            p for _, parts in parted for p in parts
        ]
        self._level, self._spent, self._means = self._level + 1, 0.0, []
        self._strategy = self._begin(np.concatenate([now, finer]) if parted else self._scale)

    def _decision(self, why: str, parted: list[tuple[Group, tuple[Group, Group]]]) -> dict[str, Any]:
        if not parted:
            return {"kind": "restart", "why": why}
        names = [name_of(group, self._problem.genes) for group, _ in parted]
        return {"kind": "split", "why": why, "groups": names, "moves": len(self._mean) + len(parted)}

    def _worth(self) -> list[Group]:
        """The groups to split: those of some importance that are not switched off."""
        where = self._anchor + self._moves @ self._favorite()
        able = [group for group in self._groups if split(group, self._problem.genes)]
        weights = [float(self._importance[list(group)].sum()) for group in able]
        on = [group for group, weight in zip(able, weights, strict=True) if weight >= WORTH * np.mean(weights)]
        return [group for group in on if np.any(where[list(group)] > 0.0)] or on

    def _step(self, group: Group) -> float:
        """The initial deviation of a group's move, in units of the genes' ranges."""
        return float(np.sqrt(np.mean(self._deviations[list(group)] ** 2)))


def indicator(group: Group, d: int) -> Vector:
    column = np.zeros(d)
    column[list(group)] = 1.0
    return column


def contrast(parts: tuple[Group, Group], d: int) -> Vector:
    """+ on the first part, - on the second, with sum zero and mean square 1 over both."""
    first, second = parts
    column = np.zeros(d)
    column[list(first)] = np.sqrt(len(second) / len(first))
    column[list(second)] = -np.sqrt(len(first) / len(second))
    return column
