"""What a candidate is and what became of it. Failures are values: a bad candidate never ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

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


@dataclass(frozen=True)
class Slopes:
    """How well documents are answered, and how that changes with what a recipe says of each tensor.

    `value`: the mean over documents, weighted over tasks, of the chance of a right answer, or of its log-likelihood
    (see `tasks.slope`). `by`: tensor ->
    parameter of the merge method -> its derivative, one number per input (or a single one of a shared parameter).
    """

    value: float
    by: Mapping[str, Mapping[str, tuple[float, ...]]]
    documents: int


Outcome: TypeAlias = "Score | Failure"


@dataclass(frozen=True)
class Job:
    """One evaluation: a recipe merged in memory, or a checkpoint folder loaded afresh, on one document set.

    `only`: of each task the ids that are still to be scored; None: all of the set. `slopes`: asked for are not scores
    but the Slopes of a recipe. `weights`: of the tasks, in place of the configuration's, for slopes only.
    """

    key: str
    documents: Documents
    recipe: Recipe | None = None
    folder: str | None = None
    only: Mapping[str, tuple[int, ...]] | None = None
    slopes: bool = False
    weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What came of a job, and the seconds it took by phase: merge, forward, other.

    `partial`: of a failure, what could be scored before it, which is never asked again. `slopes`: what a job that asks
    for them gave, whose outcome is then a Score of nothing, or a Failure.
    """

    outcome: Outcome
    seconds: dict[str, float] = field(default_factory=dict)
    partial: Score | None = None
    slopes: Slopes | None = None


@dataclass(frozen=True)
class Candidate:
    """A recipe to be tried: `id` counts from 0 in the order of asking, `generation` groups what is told at once.

    `point`: where it lies in the space, () outside of it; `origin`: who proposed it.
    """

    id: int
    generation: int
    point: Point
    recipe: Recipe
    origin: str


@dataclass(frozen=True)
class Trial:
    """A finished candidate as the ledger holds it. `value`, of the objective, is None for a failure.

    `tasks`: the metric of each, as lm-eval prints it; `loglikelihoods`: of the gold answers, per unit of their length;
    `parts`: of each task the mean that the objective weighs, and `errors` their standard errors. `recipe`: as data, of
    a candidate outside the space. `whole`: False where it left a race early, and `value` and `parts` are what it would
    have come to by the documents that it has in common with the others.
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
    origin: str = ""
    parts: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    whole: bool = True


@dataclass(frozen=True)
class Observation:
    """What an optimizer is told of a point. `value` is to be maximised and finite, also for a failure.

    `values`: the same for each task, in the order of the search's tasks, for optimizers of several objectives;
    `violation`: by how much the floors are missed, summed over tasks, 0 where all are kept. `value` already ranks what
    misses a floor below all that keep them.
    """

    id: int
    point: Point
    value: float
    standard_error: float
    documents: int
    values: tuple[float, ...] = ()
    violation: float = 0.0
