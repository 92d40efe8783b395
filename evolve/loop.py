"""The search itself: ask, evaluate what the ledger does not hold yet, record, tell.

Resuming is replay. A fresh optimizer is told what the ledger holds, generation by generation, and goes on where
it ends: the proposals depend on the seed and on what was told, never on workers or on interruptions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from evolve.budget import Budget
from evolve.errors import RunError
from evolve.executor import Executor
from evolve.ledger import Ledger
from evolve.optimizers.optimizer import Optimizer
from evolve.statistics import standard_error
from evolve.trial import Candidate, Evaluation, Failure, Job, Observation, Trial
from search_spaces.space import SearchSpace
from tasks.objective import Objective, mean_over_tasks


class Watcher(Protocol):
    """Who is told of progress."""

    def replayed(self, trials: int, moved: int) -> None: ...

    def finished(self, trial: Trial) -> None: ...


def search(
    space: SearchSpace,
    optimizer: Optimizer,
    executor: Executor,
    ledger: Ledger,
    budget: Budget,
    objective: Objective,
    *,
    watcher: Watcher,
    check: Callable[[], None],
) -> list[Trial]:
    """Search until the budget is spent; returns all trials of the run by candidate id.

    `check` is called before every record and raises when this driver must not write any more.
    """
    known = {trial.id: trial for trial in ledger.trials()}
    watcher.replayed(len(known), 0)
    generation, first = 0, 0
    while True:
        points = optimizer.ask()
        # The recorded points are the truth, also where another machine's arithmetic asks for others.
        moved = sum(known[first + i].point != point for i, point in enumerate(points) if first + i in known)
        if moved:
            watcher.replayed(len(known), moved)
        candidates = [
            Candidate(first + i, generation, point, space.decode(point), "search")
            for i, point in enumerate(points)
            if first + i not in known
        ]
        for trial in evaluate(candidates, known.values(), executor, budget, objective):
            check()
            ledger.record(trial, space.genes, space.named(trial.point))
            known[trial.id] = trial
            watcher.finished(trial)
        if any(first + i not in known for i in range(len(points))):
            break  # the budget ended inside this generation
        told = [known[first + i] for i in range(len(points))]
        if generation == 0 and all(trial.failure for trial in told):
            why = "; ".join(dict.fromkeys(f"{t.failure.kind}: {t.failure.message}" for t in told if t.failure))
            raise RunError(
                f"the search: all of the first {len(told)} candidates failed ({why[:500]}); "
                "put this right and choose another name, since failures are recorded"
            )
        optimizer.tell(observations(told, [known[i] for i in range(first)]))
        generation, first = generation + 1, first + len(points)
    return [known[i] for i in sorted(known)]


def evaluate(
    candidates: list[Candidate],
    known: Iterable[Trial],
    executor: Executor,
    budget: Budget,
    objective: Objective,
) -> Iterable[Trial]:
    """Trials of the candidates, as they finish. A recipe that was scored before is not scored again."""
    scored = {trial.digest: trial for trial in known if trial.failure is None}
    twins: dict[str, list[Candidate]] = {}
    room = budget.left(list(known), candidates[0].generation) if candidates else 0
    for candidate in candidates[:room]:
        twins.setdefault(candidate.recipe.digest, []).append(candidate)
    jobs = [
        Job(key=digest, documents="search", recipe=group[0].recipe)
        for digest, group in twins.items()
        if digest not in scored
    ]
    for digest, group in twins.items():
        if digest in scored:
            yield from (copy_of(scored[digest], twin) for twin in group)
    for job, evaluation in executor.run(jobs):
        leader, *others = twins[job.key]
        trial = trial_of(leader, evaluation, objective)
        yield trial
        yield from (copy_of(trial, twin) for twin in others)


def trial_of(candidate: Candidate, evaluation: Evaluation, objective: Objective) -> Trial:
    blank = Trial(
        id=candidate.id,
        generation=candidate.generation,
        point=candidate.point,
        digest=candidate.recipe.digest,
        value=None,
        seconds=evaluation.seconds,
        finished=time.time(),
    )
    outcome = evaluation.outcome
    if isinstance(outcome, Failure):
        return replace(blank, failure=outcome)
    utilities = objective.utilities(outcome.measures)
    value = mean_over_tasks(utilities, objective.weights)
    error = standard_error(utilities, objective.weights)
    if not (math.isfinite(value) and math.isfinite(error)):
        what = f"the objective is {value} ± {error}: an answer has no probability, or a perplexity overflows"
        return replace(blank, failure=Failure("not finite", what))
    return replace(
        blank,
        value=value,
        standard_error=error,
        documents=sum(len(values) for values in utilities.values()),
        tasks=objective.metrics(outcome.measures),
        loglikelihoods=objective.loglikelihoods(outcome.measures),
    )


def copy_of(trial: Trial, candidate: Candidate) -> Trial:
    """The trial of another point that decodes to the same recipe: nothing was scored for it."""
    return replace(
        trial,
        id=candidate.id,
        generation=candidate.generation,
        point=candidate.point,
        documents=0,
        seconds={},
        finished=time.time(),
    )


def observations(told: list[Trial], before: list[Trial]) -> list[Observation]:
    """What the optimizer learns of a generation. Failures get a finite value below everything seen so far."""
    values = [trial.value for trial in [*before, *told] if trial.value is not None]
    worst = min(values, default=0.0)
    floor = worst - 0.1 * (max(values, default=0.0) - worst) - 1e-3
    return [
        Observation(
            trial.id,
            trial.point,
            floor if trial.value is None else trial.value,
            trial.standard_error,
            trial.documents,
        )
        for trial in told
    ]
