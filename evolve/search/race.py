"""Scoring a generation without scoring all of it: what is clearly among the losers stops early.

Candidates are scored on the same documents in the same order, chunk by chunk. After every chunk but the last, those
stop that are worse than the `keep`-th best by more than `CLEARLY` standard errors of the paired difference on the
documents that all have (Maron and Moore 1994, "Hoeffding races", with a normal bound; Birattari et al. 2002 for
racing configurations). A race is a heuristic of the search, which looks at many noisy differences; what is claimed in
the end rests on other documents.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from evolve.search.draws import Only
from evolve.statistics.paired import standard_error
from evolve.trial import Candidate, Evaluation, Failure, Job
from evolve.workers.executor import Executor
from tasks.objective import Objective, Utilities, differences, mean_over_tasks

CLEARLY = 1.0  # standard errors; a wrong drop costs a rank among losers, a needless chunk costs documents


@dataclass(frozen=True)
class Finish:
    """A candidate at the end of its race. `utilities` are those of the documents that it was scored on."""

    candidate: Candidate
    evaluation: Evaluation
    utilities: Utilities | None  # None: a failure, or values that are not finite


def race(
    candidates: Sequence[Candidate],
    chunks: Sequence[Only],
    keep: int,
    executor: Executor,
    objective: Objective,
    *,
    spared: Collection[int] = (),
    late: Callable[[], bool] = lambda: False,
) -> Iterator[Finish]:
    """Each candidate when it is done with: failures, then those that stopped, after those that were scored whole.

    The `keep` best are never stopped, nor are those whose ids are in `spared`. Once it is `late` nothing is begun, and
    those that wait for it never end.
    """
    if keep >= len(candidates):
        chunks = chunks[-1:]  # nobody can be stopped
    alive = list(candidates)
    spent: dict[int, Counter[str]] = {each.id: Counter() for each in candidates}  # seconds by phase, of all laps
    stopped: list[Finish] = []
    for place, chunk in enumerate(chunks):
        last = place == len(chunks) - 1
        found: dict[int, Finish] = {}
        for finish in lap(alive, chunk, executor, objective, late):
            seconds = spent[finish.candidate.id]
            seconds.update(finish.evaluation.seconds)
            finish = replace(finish, evaluation=replace(finish.evaluation, seconds=dict(seconds)))
            if finish.utilities is None or last:
                yield finish
            found[finish.candidate.id] = finish
        if len(found) < len(alive):
            return
        left = [found[each.id] for each in alive if found[each.id].utilities is not None]
        losers = [] if last else clear_losers(left, keep, objective.weights)
        losers = [each for each in losers if each.candidate.id not in spared]
        stopped += losers
        out = {each.candidate.id for each in losers}
        alive = [each.candidate for each in left if each.candidate.id not in out]
    yield from stopped


def lap(
    candidates: Sequence[Candidate], only: Only, executor: Executor, objective: Objective, late: Callable[[], bool]
) -> Iterator[Finish]:
    """The candidates' scores on the documents `only`, as they come."""
    by_key = {each.recipe.digest: each for each in candidates}
    jobs = (Job(key=key, documents="search", recipe=each.recipe, only=only) for key, each in by_key.items())
    for job, evaluation in executor.run(takewhile(lambda _: not late(), jobs)):
        yield finish_of(by_key[job.key], evaluation, objective)


def finish_of(candidate: Candidate, evaluation: Evaluation, objective: Objective) -> Finish:
    outcome = evaluation.outcome
    utilities = None if isinstance(outcome, Failure) else objective.utilities(outcome.measures)
    return Finish(candidate, evaluation, utilities if is_finite(utilities, objective) else None)


def is_finite(utilities: Utilities | None, objective: Objective) -> bool:
    """Whether there are values, and their mean and its error are numbers: a spread can be too large for one."""
    if utilities is None:
        return False
    return all(math.isfinite(of(utilities, objective.weights)) for of in (mean_over_tasks, standard_error))


def clear_losers(finishes: Sequence[Finish], keep: int, weights: Mapping[str, float]) -> list[Finish]:
    """Those that are clearly worse than the `keep`-th best; never any of the `keep` best."""
    ranked = sorted(finishes, key=lambda each: (-mean_over_tasks(each.utilities or {}, weights), each.candidate.id))
    if len(ranked) <= keep:
        return []
    bar = ranked[keep - 1].utilities or {}
    return [each for each in ranked[keep:] if clearly_worse(each.utilities or {}, bar, weights)]


def clearly_worse(ours: Utilities, theirs: Utilities, weights: Mapping[str, float]) -> bool:
    gaps = differences(ours, theirs)
    return mean_over_tasks(gaps, weights) < -CLEARLY * standard_error(gaps, weights)


def parts_of(utilities: Utilities) -> dict[str, float]:
    """Per task the mean over its documents, exact in whatever order they come."""
    return {task: mean_over_tasks({task: its}, {task: 1.0}) for task, its in utilities.items()}


def expected(stopped: Utilities, whole: Collection[Utilities]) -> dict[str, float]:
    """What the parts of a candidate that stopped would have come to: its own on the documents that it has, and what
    the others' means moved by from these documents to all of them."""
    parts = parts_of(stopped)
    if not whole:
        return parts
    for task, its in stopped.items():
        moved = [
            mean_over_tasks({task: each[task]}, {task: 1.0})
            - mean_over_tasks({task: {document: each[task][document] for document in its}}, {task: 1.0})
            for each in whole
        ]
        parts[task] += sum(moved) / len(moved)
    return parts
