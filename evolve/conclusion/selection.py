"""Finalists meet on the selection documents, which none of them was found by.

They are scored in chunks of the same documents in the same order; who is clearly worse than the leader stops early, so
that the documents go to those that are close.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from evolve.conclusion.finalists import Finalist, Floors
from evolve.errors import RunError
from evolve.search.draws import Only
from evolve.statistics.floors import violation
from evolve.statistics.levels import LUCK, ONE_SIDED
from evolve.statistics.paired import clearly_below
from evolve.trial import Failure, Job
from evolve.workers.executor import Executor
from tasks.objective import Measures, Objective
from tasks.score import Score

RESTED = ("mean", "climbed")  # kinds that rest on the scores of many candidates


@dataclass(frozen=True)
class Selection:
    """`ranked`: those with all selection documents, the winner first (see `rested`), the others by score; `dropped`:
    those that stopped early, with the scores they had; `measures`: by name, of the ranked."""

    ranked: tuple[Finalist, ...]
    dropped: tuple[Finalist, ...]
    measures: Mapping[str, Measures]

    @property
    def best_start(self) -> Finalist | None:
        """The strongest baseline that keeps the floors, by the documents that it was scored on."""
        starts = [each for each in (*self.ranked, *self.dropped) if each.kind == "start" and not each.violation]
        return max(starts, key=lambda each: each.selection, default=None)


def select(
    finalists: Sequence[Finalist],
    objective: Objective,
    executor: Executor,
    done: Callable[[str], None],
    *,
    chunks: Sequence[Only | None] = (None,),
    floors: Floors | None = None,
    base: str = "",
    kept: Iterable[str] = (),
) -> Selection:
    """Score the finalists on the selection documents; those that keep the floors rank before those that miss one.

    `chunks`: what has been scored after each look, the last one everything; None: everything. After each but the last,
    those stop that are below the leader by `ONE_SIDED` standard errors of their paired difference; never the base, nor
    those with a digest in `kept`. With floors nobody stops early: who keeps them on a few documents may do so by luck,
    and would lead. Raises RunError where none could be scored, or not the base where floors need it.
    """
    alive, dropped, measures = list(finalists), list[Finalist](), dict[str, Measures]()
    safe = {base, *kept}
    chunks = chunks[-1:] if floors else chunks
    for place, chunk in enumerate(chunks):
        last = place == len(chunks) - 1
        jobs = {
            f.name: Job(key=f.recipe.digest, documents="selection", recipe=f.recipe, only=None if last else chunk)
            for f in alive
        }
        scores = scored(jobs, objective, executor, done if last else said(done))
        measures = {name: score.measures for name, score in scores.items()}
        alive = ranked(alive, measures, objective, floors or {}, base)
        if not last:
            losers = [each for each in alive[1:] if each.recipe.digest not in safe]
            losers = [each for each in losers if worse(each, alive[0], measures, objective)]
            dropped += losers
            alive = [each for each in alive if each not in losers]
            for each in losers:
                done(f"{each.name} is clearly worse")
    alive = rested(alive, measures, objective)
    return Selection(tuple(alive), tuple(dropped), {each.name: measures[each.name] for each in alive})


def rested(ranked: Sequence[Finalist], measures: Mapping[str, Measures], objective: Objective) -> list[Finalist]:
    """With another first, where the first is a single candidate of the search and not clearly better.

    It may have been the luckiest of many, there as here; where gradients led, and the optimizer's mean, rest on the
    scores of many. None that misses more of a floor, or is worse than a baseline, comes to stand first.
    """
    leader, *others = ranked
    start = next((place for place, each in enumerate(others) if each.kind == "start"), len(others))
    rival = next((each for each in others[:start] if each.kind in RESTED), None)
    if leader.kind != "found" or rival is None or rival.violation > leader.violation:
        return list(ranked)
    ours, theirs = (objective.utilities(measures[each.name]) for each in (rival, leader))
    if clearly_below(ours, theirs, objective.weights, LUCK):
        return list(ranked)
    return [rival, *(each for each in ranked if each is not rival)]


def worse(one: Finalist, leader: Finalist, measures: Mapping[str, Measures], objective: Objective) -> bool:
    ours, theirs = (objective.utilities(measures[each.name]) for each in (one, leader))
    return clearly_below(ours, theirs, objective.weights, ONE_SIDED)


def ranked(
    finalists: Sequence[Finalist],
    measures: Mapping[str, Measures],
    objective: Objective,
    floors: Floors,
    base: str,
) -> list[Finalist]:
    """Those with a finite value, the best first, with what these documents say of them; of equal ones the better on the
    search documents."""
    metrics = {name: objective.metrics(each) for name, each in measures.items()}
    standard = next((metrics.get(each.name) for each in finalists if each.recipe.digest == base), None)
    if floors and standard is None:
        raise RunError(
            "score.tasks[].floor: the base, which floors are counted from, could not be scored on the selection "
            "documents (the line above says why); if running again does not help, search under another name without "
            "floors, or with another models.base"
        )

    def told(each: Finalist) -> Finalist:
        missed = 0.0
        if floors and standard is not None:
            missed = violation(objective.oriented(metrics[each.name]), objective.oriented(standard), floors)
        return replace(
            each,
            selection=objective.value(measures[each.name]),
            metrics={**each.metrics, "selection": metrics[each.name]},
            documents=sum(map(len, objective.utilities(measures[each.name]).values())),
            violation=missed,
        )

    found = [told(each) for each in finalists if each.name in measures]
    found = [each for each in found if math.isfinite(each.selection)]
    if not found:
        raise RunError("the finalists: none could be scored on the selection documents; run the same command again")

    def rank(each: Finalist) -> tuple[float, float, float]:
        return each.violation, -each.selection, math.inf if each.search is None else -each.search

    return sorted(found, key=rank)


def said(done: Callable[[str], None]) -> Callable[[str], None]:
    """Tells of failures only: a look is no step of its own."""
    return lambda text: done(text) if " failed (" in text else None


def scored(
    jobs: Mapping[str, Job], objective: Objective, executor: Executor, done: Callable[[str], None]
) -> dict[str, Score]:
    """The scores by name. Names with the same job share one; one that fails, or is not finite, is said and left out."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, job in jobs.items():
        names.setdefault((job.key, job.documents), []).append(name)
    scores = {}
    for job, evaluation in executor.run([jobs[twins[0]] for twins in names.values()]):
        for name in names[job.key, job.documents]:
            outcome = evaluation.outcome
            if isinstance(outcome, Failure):
                done(f"{name} failed ({outcome.kind}): {outcome.message}")
            elif not math.isfinite(objective.metric_only().value(outcome.measures)):
                done(f"{name} failed (not finite): its metric is not a finite number")
            else:
                scores[name] = outcome
                done(name)
    return {name: scores[name] for name in jobs if name in scores}
