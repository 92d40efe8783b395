"""What a candidate is and what became of it. Failures are values: a bad candidate never ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from engine.recipe import Recipe

if TYPE_CHECKING:  # whoever only reads a ledger does not wait for torch and lm-eval
    from tasks.score import Score

Point = tuple[float, ...]
Documents = Literal["search", "selection", "report"]


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no score: `kind` for counting, `message` for the reader."""

    kind: str
    message: str


Outcome: TypeAlias = "Score | Failure"


@dataclass(frozen=True)
class Job:
    """One evaluation: a recipe merged in memory, or a checkpoint folder loaded afresh, on one document set.

    `only`: of each task the ids that are still to be scored; None: all of the set.
    """

    key: str
    documents: Documents
    recipe: Recipe | None = None
    folder: str | None = None
    only: Mapping[str, tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What came of a job, and the seconds it took by phase: merge, forward, other.

    `partial`: of a failure, what could be scored before it, which is never asked again.
    """

    outcome: Outcome
    seconds: dict[str, float] = field(default_factory=dict)
    partial: Score | None = None


@dataclass(frozen=True)
class Candidate:
    """A point of the search: `id` counts from 0 in the order of asking, `generation` groups what is told at once."""

    id: int
    generation: int
    point: Point
    recipe: Recipe


@dataclass(frozen=True)
class Trial:
    """A finished candidate as the ledger holds it. `value`, of the objective, is None for a failure.

    `tasks`: the metric of each, as lm-eval prints it; `loglikelihoods`: of the gold answers, per unit of their length.
    """

    id: int
    generation: int
    point: Point
    digest: str
    value: float | None
    standard_error: float = 0.0
    documents: int = 0
    tasks: dict[str, float] = field(default_factory=dict)
    loglikelihoods: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    finished: float = 0.0  # seconds since the epoch


@dataclass(frozen=True)
class Observation:
    """What an optimizer is told of a point. `value` is to be maximised and finite, also for a failure."""

    id: int
    point: Point
    value: float
    standard_error: float
    documents: int
