"""Climbing the chance of right answers by the gradient of all genes at once, before the search takes over.

The derivative by every weight of a recipe costs one pass forward and backward over a few documents, however many genes
there are (`evolve.workers.slopes`). Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1) walks on it in the unit
cube. What is climbed is not the metric itself (see `tasks.slope`), so that its points are proposals like any others:
scored, and dropped where they are no better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engine.checkpoint import Checkpoint
from evolve.search.steps import DEFAULTS, Ids, Settings, batches, charge, epoch, steps_of
from evolve.search.study import Spent
from evolve.trial import Failure, Job, Point
from evolve.workers.executor import Executor
from search_spaces.sensitivity import Sensitivity, has_slope
from search_spaces.space import SearchSpace

SPACING = 20  # steps between two points that are worth scoring
TAIL = 8  # steps whose mean such a point is
SHORTEST = 4  # steps that are compared with as many before them
NOT_FINITE = "not finite"  # the kind of failures that are found when documents are scored
FAILURES = 3  # in a row, each halfway back from the last, after which a climb ends
UNAFFORDABLE = "the budget bears no more"
LEAST = 0.005  # what a round has to gain: of a chance, half a point
Facts = Callable[[], dict[str, Any]]
Remember = Callable[[Facts, int], Mapping[str, Any]]
"""(facts, documents) -> what a step found out: `facts()`, or what is on record of it; of `documents`, the most that it
may take, those are charged that the facts tell as their `documents`."""
Reached = Callable[[Point], bool]
"""Told of a point that is worth scoring as soon as a climb has come there; whether to climb on is in vain."""
FRUITLESS = "nothing that it came to is better than what the search began with"
CHANCE = "chance of a right answer"


@dataclass(frozen=True)
class Step:
    """What one step found: at `point`, how well its documents are answered, and the derivative by every gene."""

    point: Point
    value: float
    gradient: tuple[float, ...]


@dataclass(frozen=True)
class Descent:
    """A climb. `points`: where it came to, the last one the furthest, each a mean over the steps before it.

    `importance`: by gene, the root mean square of its derivative, in what is climbed a range. `reason`: why it
    ended. `charged`: documents.
    """

    steps: tuple[Step, ...]
    points: tuple[Point, ...]
    importance: tuple[float, ...]
    charged: int
    reason: str


def descend(
    space: SearchSpace,
    start: Point,
    executor: Executor,
    checkpoints: Mapping[str, Checkpoint],
    documents: Ids,
    seed: int | str,
    *,
    remember: Remember,
    settings: Settings = DEFAULTS,
    scoring: int = 0,
    weights: Mapping[str, float] | None = None,
    tell: Callable[[str], None] = lambda _: None,
    climbed: str = CHANCE,
    reached: Reached = lambda _: False,
) -> Descent:
    """Climb from `start`, by steps over a few of the search `documents` at a time, until that helps no more.

    Everything is a function of the arguments and of what `remember` returns, so that a climb that was interrupted is
    walked again from the record. Where a recipe answers with numbers that are not finite, the next step is halfway
    back. A recipe that has no slopes ends it, with what was found until then, and so does a budget that does not bear
    one step more and then `scoring` documents for the next point: that is on record too, so that a larger budget does
    not move what came after it. Points are `reached` after every SPACING steps, and at the end.

    `weights`: of the tasks; None: the configuration's. `tell` hears of steps as they are made, of those on record
    nothing; `climbed`: what their value is called.

    Raises Spent where nothing is left, not even for the points.
    """
    settings = replace(settings, most=steps_of(documents, settings))
    sensitivity, walker = Sensitivity(space, checkpoints), Adam(space, start, settings)
    steps, points = list[Step](), list[Point]()

    def arrives() -> bool:
        points.append(whereabouts(steps, walker.point))
        return reached(points[-1])

    charged, failed, reason = 0, 0, f"{settings.most} steps are the most"
    taken = batches(documents, settings, seed)
    while len(steps) < len(taken):
        batch = taken[len(steps)]
        cost, name = charge(batch), f"gradient step {len(steps) + 1} of {settings.most}, {climbed}"
        found = partial(slopes_at, space, walker.point, executor, sensitivity, batch, weights)
        facts = within_budget(remember, partial(told, found, name, tell), cost + scoring)
        charged += facts["documents"]
        if facts["failure"]:
            failed += 1
            if steps and facts.get("passing"):
                again = failed < FAILURES
                walker.back_to(steps[-1].point, halfway=again)
                if again:
                    continue
            reason = str(facts["failure"])
            break
        failed = 0
        step = Step(walker.point, float(facts["value"]), tuple(map(float, facts["gradient"])))
        steps.append(step)
        walker.move(step.gradient)
        if ended(steps, documents, settings):
            reason = "it rises no more"
            break
        if len(steps) % SPACING == 0 and len(steps) < len(taken) and arrives():
            reason = FRUITLESS
            break
    if len(steps) > SPACING * len(points) and arrives():
        reason = FRUITLESS
    return Descent(tuple(steps), tuple(points), importance(steps, space), charged, reason)


def within_budget(remember: Remember, facts: Facts, documents: int) -> Mapping[str, Any]:
    """What is remembered of a step, or that the budget did not bear it."""
    try:
        return remember(facts, documents)
    except Spent:
        return remember(partial(dict, failure=UNAFFORDABLE, documents=0), 0)


def told(found: Facts, name: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The facts, after telling of them."""
    facts = found()
    if not facts["failure"]:
        tell(f"{name} {facts['value']:.3f}")
    return facts


def slopes_at(
    space: SearchSpace,
    point: Point,
    executor: Executor,
    sensitivity: Sensitivity,
    batch: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, float] | None,
) -> dict[str, Any]:
    """A step's facts, as they go on record: value and gradient, or the failure and whether another point may do better,
    and the documents to be charged, which are none where nothing could be scored."""
    cost = charge(batch)
    recipe = space.decode(point)
    job = Job(recipe.digest, "search", recipe=recipe, only=batch, slopes=True, weights=weights)
    for _, evaluation in executor.run([job]):
        found, outcome = evaluation.slopes, evaluation.outcome
        if isinstance(outcome, Failure) or found is None:
            lost = isinstance(outcome, Failure) and outcome.kind == NOT_FINITE
            message = outcome.message if isinstance(outcome, Failure) else "no slopes"
            return {"failure": message, "passing": lost, "documents": cost if lost else 0}
        gradient = sensitivity.gradient(point, found.by)
        if not all(map(math.isfinite, (found.value, *gradient))):
            return {"failure": "the gradient is not finite", "passing": True, "documents": cost}
        return {"failure": None, "value": found.value, "gradient": list(gradient), "documents": cost}
    return {"failure": "the job was not done", "documents": 0}


class Adam:
    """A point of the unit cube that is moved by gradients."""

    def __init__(self, space: SearchSpace, start: Point, settings: Settings) -> None:
        self._settings = settings
        self._lengths = [
            settings.step / (gene.high - gene.low) if has_slope(gene) and gene.high > gene.low else 0.0
            for gene in space.genes
        ]
        self._mean, self._square, self._count = [0.0] * len(start), [0.0] * len(start), 0
        self.point = start

    def back_to(self, point: Point, *, halfway: bool) -> None:
        """To where it was better to stand, or halfway there."""
        self.point = mean([self.point, point]) if halfway else point

    def move(self, gradient: Sequence[float]) -> None:
        """One step up the gradient; what would leave the cube stays at its wall."""
        first, second = self._settings.first, self._settings.second
        fall = 1 / math.sqrt(1 + self._count / self._settings.decay)
        self._count += 1
        moved = []
        for i, (x, g) in enumerate(zip(self.point, gradient, strict=True)):
            self._mean[i] = first * self._mean[i] + (1 - first) * g
            self._square[i] = second * self._square[i] + (1 - second) * g * g
            m, v = self._mean[i] / (1 - first**self._count), self._square[i] / (1 - second**self._count)
            moved.append(min(1.0, max(0.0, x + fall * self._lengths[i] * m / math.sqrt(v))) if v > 0 else x)
        self.point = tuple(moved)


def ended(steps: Sequence[Step], documents: Ids, settings: Settings) -> bool:
    """Whether the last `patience` rounds through the documents were no better than one before them.

    Single batches are easier or harder, so that means over whole rounds are compared, which are of the same documents;
    rounds of few steps count together.
    """
    size = max(max((epoch(len(ids), settings) for ids in documents.values()), default=1), SHORTEST)
    if len(steps) % size:
        return False
    rounds = [sum(step.value for step in steps[at : at + size]) / size for at in range(0, len(steps), size)]
    patience = settings.patience
    return len(rounds) > patience and max(rounds[-patience:]) <= max(rounds[:-patience]) + LEAST


def whereabouts(steps: Sequence[Step], last: Point) -> Point:
    """Where a climb is: the mean of its last TAIL points, or of the second half where there are fewer."""
    walked = [*(step.point for step in steps[1:]), last]
    return mean(walked[max(len(walked) // 2, len(walked) - TAIL) :])


def mean(points: Sequence[Point]) -> Point:
    return tuple(sum(numbers) / len(points) for numbers in zip(*points, strict=True))


def importance(steps: Sequence[Step], space: SearchSpace) -> tuple[float, ...]:
    """By gene: the root mean square of what a step found."""
    if not steps:
        return (0.0,) * len(space.genes)
    return tuple(math.sqrt(sum(step.gradient[i] ** 2 for step in steps) / len(steps)) for i in range(len(space.genes)))
