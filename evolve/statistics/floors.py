"""Floors: what a merge may lose of a task, as a constraint. Merges are known to lose what nobody searched for, such as
refusals and the following of instructions; a weight in the objective would only trade that away at a price.

Everything here is in the metric's own units, turned so that higher is better (`Objective.oriented`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evolve.statistics.paired import Difference

ROUNDING = 1e-9  # .70 - .05 is .6499999999999999 in floats, and keeps a floor at .65

Kept = Literal["kept", "missed", "cannot be told"]


@dataclass(frozen=True)
class FloorCheck:
    """One task's floor and the winner's difference to the base on the report documents."""

    task: str
    floor: float
    difference: Difference
    verdict: Kept


def violation(parts: Mapping[str, float], base_parts: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """By how much floors are missed, summed over tasks; 0 where all are kept.

    `parts`, `base_parts`: task -> metric, higher is better, on the same documents; `floors`: task -> how far below the
    base it may be. A value that is not a number misses its floor infinitely.
    """
    missed = 0.0
    for task, floor in floors.items():
        below = base_parts[task] - floor - parts[task]
        missed += 0.0 if below <= ROUNDING else below if below < float("inf") else float("inf")
    return missed


def check(task: str, floor: float, difference: Difference) -> FloorCheck:
    """What the interval of (winner - base) says of a floor."""
    verdict: Kept = "cannot be told"
    if difference.low >= -floor - ROUNDING:
        verdict = "kept"
    elif difference.high < -floor - ROUNDING:
        verdict = "missed"
    return FloorCheck(task, floor, difference, verdict)
