"""The search itself: ask, score what the ledger does not hold yet, record, tell.

Resuming is replay. A fresh optimizer is told what the ledger holds, generation by generation, and goes on where it
ends: the proposals depend on the seed and on what was told, never on workers or on interruptions. An asynchronous
search has no generations (`evolve.search.stream`): it replays as well, but what it proposes depends on who answers
first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count

from evolve.optimizers.optimizer import Optimizer, Problem, Steady
from evolve.search.descent import FRUITLESS, Descent, Reached, Remember
from evolve.search.opening import best_model, nothing_scored, opening
from evolve.search.spread import between, leanings, leant_to, middle
from evolve.search.standing import NO_FLOORS, Floors, Standing
from evolve.search.stream import Stream
from evolve.search.study import SEARCH, Spent, Study, proposal
from evolve.search.worth import champions
from evolve.trial import Point, Trial
from tasks.objective import weighted_mean

GRADIENT = "gradient"  # the origin of points that a climb came to
LEANING = "leaning gradient"  # likewise, where it leant towards one task
BETWEEN = "between gradients"  # of points between those
SLOPES = "slopes"  # how the kinds of events begin that hold climbs' steps
NEAR = 0.04  # first deviations around such a point, in units of the genes' ranges: its details are worth keeping
Climb = Callable[[Point, Remember, Mapping[str, float] | None, Reached], Descent]
"""(start, remember, weights of the tasks or None for the objective's, reached) -> how a climb went."""


def search(
    study: Study,
    make: Callable[[Problem], Optimizer],
    problem: Problem,
    *,
    normalize: bool = False,
    floors: Floors = NO_FLOORS,
    climb: Climb | None = None,
    over: Callable[[], bool] = lambda: False,
    steady: Callable[[Optimizer], Steady] | None = None,
) -> Point | None:
    """Search until the budget is spent; returns the point that the optimizer believes in.

    `problem`: what the optimizer is made from, but for the points to begin with. `climb`: by gradients, to where the
    optimizer then begins. `over`: asked after every generation, whether to go on is in vain. `steady`: how the
    optimizer goes without generations; None: it has them.
    """
    optimizer: Optimizer | None = None
    with suppress(Spent):
        opened = opening(study, normalize=normalize, floors=bool(floors), together=steady is not None)
        standing = Standing(study.objective, floors)
        standing.meet(study.trials)
        starts, begin = opened.starts, replace(problem, mean=opened.mean)
        if climb is not None and opened.foot is not None and study.goes_on:  # its points have to be scored

            def reached(point: Point) -> bool:
                starts.extend(scored([point], study, standing, GRADIENT))
                return not leads(study) and over()

            climbed = climb(opened.foot, partial(study.decide, SLOPES), None, reached)
            if climbed.reason == FRUITLESS:
                return None
            if climbed.points:
                begin = around_best(begin, starts, study, standing, climbed)
                if problem.objectives > 1:
                    starts += front_of_climbs(climbed.points[-1], climb, study, standing, problem)
        optimizer = make(replace(begin, start=tuple(trial.point for trial in starts)))
        if steady is not None:
            begin_with(optimizer, starts, standing)
            Stream(study, steady(optimizer), standing, problem.population).run()
        elif not over():
            generations(study, optimizer, starts, standing, over)
    return optimizer.recommend() if optimizer is not None else None


def around_best(begin: Problem, starts: Sequence[Trial], study: Study, standing: Standing, climbed: Descent) -> Problem:
    """Begin where the climb came to, in small steps, unless something else is better by a standard error: a climb has
    seen more documents than a candidate."""
    problem = replace(begin, importance=climbed.importance)
    best = standing.best(study.trials)
    there = standing.best([trial for trial in starts if trial.origin == GRADIENT])
    if best is None or there is None:
        return problem
    weights = study.objective.weights
    if weighted_mean(there.parts, weights) + there.standard_error < weighted_mean(best.parts, weights):
        return problem
    return replace(problem, mean=there.point, deviations=(NEAR,) * len(begin.genes))


def leads(study: Study) -> bool:
    """Whether the best that was searched is ahead of what the search began with, by a standard error."""
    pair, weights = champions(study.trials, study.objective), study.objective.weights
    if pair is None:
        return False
    searched, plain = pair
    return weighted_mean(searched.parts, weights) - weighted_mean(plain.parts, weights) > searched.standard_error


def scored(points: Sequence[Point], study: Study, standing: Standing, origin: str) -> list[Trial]:
    found = study.score([proposal(study, point, origin) for point in points])
    standing.meet(found)
    return found


def front_of_climbs(center: Point, climb: Climb, study: Study, standing: Standing, problem: Problem) -> list[Trial]:
    """The trials of climbs that lean towards each task, and of what lies between, a population at most. Each begins
    halfway from `center` to the model that is best at its task."""
    ends, trials = [center], list[Trial]()

    def reached(point: Point) -> bool:
        trials.extend(scored([point], study, standing, LEANING))
        return False

    objective = study.objective.weights
    for weights in leanings(objective):
        task = leant_to(weights, objective)
        foot = middle(problem.genes, center, best_model(study, task) or center)
        remember = partial(study.decide, f"{SLOPES} towards {task}")
        ends += climb(foot, remember, weights, reached).points[-1:]
    points = between(problem.genes, ends, problem.population)
    return trials + scored(points, study, standing, BETWEEN)


def generations(
    study: Study,
    optimizer: Optimizer,
    starts: Sequence[Trial],
    standing: Standing,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Search with the optimizer until it has nothing to ask any more, or it is `over`.

    `starts`: trials of the points that it was made to ask first. Raises Spent where the budget ends.
    """
    begin_with(optimizer, starts, standing)
    rival = standing.best(starts) if study.draws.vary else None
    for draw in count(1):
        points = optimizer.ask()
        if not points:
            return
        asked = [proposal(study, point, SEARCH) for point in points]
        trials = study.score(asked, rival=rival, draw=draw)
        if all(trial.failure for trial in study.trials):
            raise nothing_scored(trials)
        standing.meet(trials)
        optimizer.tell(standing.told(trials))
        for decision in optimizer.decisions():
            study.note(decision)
        if over():
            return


def begin_with(optimizer: Optimizer, starts: Sequence[Trial], standing: Standing) -> None:
    """Tell the optimizer what came of the points that it was made to ask first."""
    if starts:
        optimizer.ask()
        optimizer.tell(standing.told(starts))
