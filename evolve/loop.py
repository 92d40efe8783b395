"""The search itself: ask, score what the ledger does not hold yet, record, tell.

Resuming is replay. A fresh optimizer is told what the ledger holds, generation by generation, and goes on where it
ends: the proposals depend on the seed and on what was told, never on workers or on interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count

from evolve.descent import Descent, Remember
from evolve.floors import violation
from evolve.opening import BASE, nothing_scored, opening
from evolve.optimizers.optimizer import Optimizer, Problem
from evolve.study import Proposal, Spent, Study, value_of
from evolve.trial import Observation, Point, Trial
from tasks.objective import Objective

Floors = Mapping[str, float]  # task -> how far its metric may fall below the base's
NO_FLOORS: Floors = {}
GRADIENT = "gradient"  # the origin of points that a climb came to
NEAR = 0.04  # first deviations around such a point, in units of the genes' ranges: its details are worth keeping
Climb = Callable[[Point, Remember], Descent]


def search(
    study: Study,
    make: Callable[[Problem], Optimizer],
    problem: Problem,
    *,
    normalize: bool = False,
    floors: Floors = NO_FLOORS,
    climb: Climb | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Point | None:
    """Search until the budget is spent; returns the point that the optimizer believes in.

    `problem`: what the optimizer is made from, but for the points to begin with. `climb`: by gradients, to where the
    optimizer then begins. `over`: asked after every generation, whether to go on is in vain.
    """
    optimizer: Optimizer | None = None
    with suppress(Spent):
        opened = opening(study, normalize=normalize, floors=bool(floors))
        starts, begin = opened.starts, replace(problem, mean=opened.mean)
        if climb is not None and opened.foot is not None and study.goes_on:  # its points have to be scored
            climbed = climb(opened.foot, partial(study.decide, "slopes"))
            if climbed.points:
                starts += study.score([proposal(study, point, GRADIENT) for point in climbed.points])
                begin = around_best(begin, starts, study, floors, climbed)
        optimizer = make(replace(begin, start=tuple(trial.point for trial in starts)))
        if not over():
            generations(study, optimizer, starts, floors, over)
    return optimizer.recommend() if optimizer is not None else None


def around_best(begin: Problem, starts: Sequence[Trial], study: Study, floors: Floors, climbed: Descent) -> Problem:
    """Begin where the climb came to, in small steps, unless something else is better by a standard error: a climb has
    seen more documents than a candidate."""
    problem = replace(begin, importance=climbed.importance)
    best = best_of(study.trials, study, floors)
    there = best_of([trial for trial in starts if trial.origin == GRADIENT], study, floors)
    if best is None or there is None:
        return problem
    weights = study.objective.weights
    if value_of(there.parts, weights) + there.standard_error < value_of(best.parts, weights):
        return problem
    return replace(problem, mean=there.point, deviations=(NEAR,) * len(begin.genes))


def generations(
    study: Study,
    optimizer: Optimizer,
    told: Sequence[Trial],
    floors: Floors,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Search with the optimizer until it has nothing to ask any more, or it is `over`.

    `told`: trials of the points that it was made to ask first. Raises Spent where the budget ends.
    """
    points = optimizer.ask()
    if told:
        optimizer.tell(observations(told, study, floors))
        points = optimizer.ask()
    rival = best_of(told, study, floors) if study.draws.vary else None
    for draw in count(1):
        if not points:
            return
        asked = [proposal(study, point, "search") for point in points]
        trials = study.score(asked, rival=rival, draw=draw)
        if all(trial.failure for trial in study.trials):
            raise nothing_scored(trials)
        optimizer.tell(observations(trials, study, floors))
        for decision in optimizer.decisions():
            facts = {key: value for key, value in decision.items() if key != "kind"}
            study.decide(decision["kind"], partial(dict, facts))
        if over():
            return
        points = optimizer.ask()


def proposal(study: Study, point: Point, origin: str) -> Proposal:
    return Proposal(study.space.decode(point), origin, point)


def best_of(trials: Sequence[Trial], study: Study, floors: Floors) -> Trial | None:
    """The best of those trials that were scored whole; None where there is none."""
    whole = [trial for trial in trials if trial.whole and trial.failure is None]
    values = {trial.id: value for trial, value, _ in ranked(whole, study.trials, study.objective, floors)}
    return max(whole, key=lambda trial: (values[trial.id], -trial.id), default=None)


def observations(trials: Sequence[Trial], study: Study, floors: Floors) -> list[Observation]:
    """What an optimizer learns of these trials.

    Values are finite: those that miss a floor lie below all that keep theirs, the further the more is missed, and
    failures below everything seen so far, on each task as well.
    """
    scored = [trial.parts for trial in (*study.trials, *trials) if trial.failure is None]
    worst = {goal.task: min((parts[goal.task] for parts in scored), default=0.0) for goal in study.objective.goals}
    return [
        Observation(
            trial.id,
            trial.point,
            value,
            trial.standard_error,
            trial.documents,
            values=tuple(trial.parts.get(task, low - 1e-3 * (1 + abs(low))) for task, low in worst.items()),
            violation=missed,
        )
        for trial, value, missed in ranked(trials, study.trials, study.objective, floors)
    ]


def ranked(
    trials: Sequence[Trial], seen: Sequence[Trial], objective: Objective, floors: Floors
) -> list[tuple[Trial, float, float]]:
    """Each trial with its value as optimizers are told it, and by how much it misses the floors."""
    base = next((trial for trial in seen if trial.origin == BASE and trial.failure is None), None)
    limits = floors if base is not None else {}

    def missed(trial: Trial) -> float:
        if not limits or base is None:
            return 0.0
        return violation(objective.oriented(trial.tasks), objective.oriented(base.tasks), limits)

    values = [value_of(trial.parts, objective.weights) for trial in (*seen, *trials) if trial.failure is None]
    lowest, width = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    below = lowest - 0.1 * width - 1e-3
    most = max((missed(trial) for trial in (*seen, *trials) if trial.failure is None), default=0.0)
    result = []
    for trial in trials:
        if trial.failure is not None:
            result.append((trial, below - most, most))
        else:
            miss = missed(trial)
            result.append((trial, below - miss if miss else value_of(trial.parts, objective.weights), miss))
    return result
