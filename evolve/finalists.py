"""Who meets on the selection documents, and who wins there.

Finalists are the best few of the search, what the optimizer believes in, and the baselines of the opening, so that the
winner is never worse than the best of these on the selection documents. They are scored in chunks of the same documents
in the same order; who is clearly worse than the leader stops early, so that the documents go to those that are close.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.recipe import Recipe
from evolve.draws import Only
from evolve.errors import RunError
from evolve.executor import Executor
from evolve.floors import violation
from evolve.levels import ONE_SIDED
from evolve.loop import GRADIENT
from evolve.opening import START
from evolve.statistics import clearly_below
from evolve.study import recipe_of, value_of
from evolve.trial import Failure, Job, Point, Trial
from search_spaces.space import SearchSpace
from tasks.objective import Measures, Objective, Utilities
from tasks.score import Score

NO_ANSWERS: Mapping[str, Utilities] = {}
Kind = Literal["found", "mean", "start"]
Floors = Mapping[str, float]


@dataclass(frozen=True)
class Finalist:
    """A recipe of the last round and what it scored so far (the optimizer's mean was never searched).

    `search` and `selection` are values of the objective, `error` the standard error of the first; `metrics`: set ->
    task -> metric as lm-eval prints it; `documents`: those of the selection set that it was scored on; `violation`: by
    how much it misses floors on them; `kind`: found by the search, the optimizer's mean, or of the opening; `of`: the
    finalist that it was simplified from.
    """

    name: str
    recipe: Recipe
    search: float | None
    selection: float = float("nan")
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kind: Kind = "found"
    error: float = 0.0
    documents: int = 0
    violation: float = 0.0
    of: str = ""


@dataclass(frozen=True)
class Selection:
    """`ranked`: those with all selection documents, the winner first; `dropped`: those that stopped early, with the
    scores they had; `measures`: by name, of the ranked."""

    ranked: tuple[Finalist, ...]
    dropped: tuple[Finalist, ...]
    measures: Mapping[str, Measures]

    @property
    def best_start(self) -> Finalist | None:
        """The strongest baseline that keeps the floors, by the documents that it was scored on."""
        starts = [each for each in (*self.ranked, *self.dropped) if each.kind == "start" and not each.violation]
        return max(starts, key=lambda each: each.selection, default=None)


def choose_finalists(
    space: SearchSpace,
    trials: Sequence[Trial],
    recommended: Point | None,
    count: int,
    *,
    objective: Objective,
    floors: Floors,
    base: str,
    front: Iterable[Trial] = (),
    answers: Mapping[str, Utilities] = NO_ANSWERS,
) -> list[Finalist]:
    """The `count` best recipes of the search and its `front`, the optimizer's own recommendation, where gradients led
    (by other documents than those that scored it), and the baselines but for those that are clearly worse than the best
    of them on the search documents.

    `base`: digest of the base's recipe, which is always one of them where there are floors; `answers`: what the
    baselines scored on the same search documents, by digest. Who left a race early has not the documents to be one.
    Raises RunError where nothing was scored.
    """
    scored = [trial for trial in trials if trial.value is not None and trial.whole]
    if not scored:
        raise RunError("the search: no candidate could be scored; see `evolve status` for the failures")
    bases = [trial for trial in scored if trial.digest == base]

    def rank(trial: Trial) -> tuple[float, float, int]:
        missed = 0.0
        if floors and bases:
            missed = violation(objective.oriented(trial.tasks), objective.oriented(bases[0].tasks), floors)
        return missed, -decided_value(trial, objective), trial.id

    best: dict[str, Trial] = {}
    for trial in sorted(scored, key=rank):
        if len(best) < count or trial.digest in best:
            best.setdefault(trial.digest, trial)
    chosen = {digest: finalist_of(trial, space, objective) for digest, trial in best.items()}
    climbed = [trial for trial in scored if trial.origin == GRADIENT]
    for trial in (*front, *climbed, *standing(scored, objective, answers), *(bases if floors else ())):
        chosen.setdefault(trial.digest, finalist_of(trial, space, objective))
    if recommended is not None:
        recipe = space.decode(recommended)
        chosen.setdefault(recipe.digest, Finalist("mean of the search", recipe, None, kind="mean"))
    return distinct(chosen.values())


def distinct(finalists: Iterable[Finalist]) -> list[Finalist]:
    """With names that are told apart: two greedy soups may be of as many models."""
    result: dict[str, Finalist] = {}
    for each in finalists:
        name, number = each.name, 2
        while name in result:
            name, number = f"{each.name} ({number})", number + 1
        result[name] = replace(each, name=name)
    return list(result.values())


def standing(scored: Sequence[Trial], objective: Objective, answers: Mapping[str, Utilities]) -> list[Trial]:
    """The baselines that are not clearly worse than the best of them: paired where their answers are there, else by
    the errors of both."""
    starts = list({trial.digest: trial for trial in scored if trial.origin.startswith(START)}.values())
    if not starts:
        return []
    values = {trial.digest: decided_value(trial, objective) for trial in starts}
    best = max(starts, key=lambda trial: values[trial.digest])

    def clearly_worse(trial: Trial) -> bool:
        if {trial.digest, best.digest} <= answers.keys():
            return clearly_below(answers[trial.digest], answers[best.digest], objective.weights, ONE_SIDED)
        apart = values[best.digest] - values[trial.digest]
        return apart > ONE_SIDED * math.hypot(trial.standard_error, best.standard_error)

    return [trial for trial in starts if not clearly_worse(trial)]


def opening_recipes(trials: Sequence[Trial], space: SearchSpace) -> dict[str, Recipe]:
    """The opening's recipes by name, of those that were scored whole."""
    starts = [each for each in trials if each.origin.startswith(START) and each.whole and each.value is not None]
    found = {each.digest: Finalist(name_of(each), recipe_of(each, space), None) for each in starts}
    return {each.name: each.recipe for each in distinct(found.values())}


def decided_value(trial: Trial, objective: Objective) -> float:
    """By the objective that decides in the end, which the first trials may not have been valued by."""
    weights = objective.weights
    return value_of(trial.parts, weights) if trial.parts.keys() == weights.keys() else float(trial.value or 0.0)


def name_of(trial: Trial) -> str:
    return trial.origin.removeprefix(START) if trial.origin.startswith(START) else f"trial {trial.id}"


def finalist_of(trial: Trial, space: SearchSpace, objective: Objective) -> Finalist:
    return Finalist(
        name_of(trial),
        recipe_of(trial, space),
        decided_value(trial, objective),
        metrics={"search": trial.tasks},
        kind="start" if trial.origin.startswith(START) else "found",
        error=trial.standard_error,
    )


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
    return Selection(tuple(alive), tuple(dropped), {each.name: measures[each.name] for each in alive})


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
    """Those with a finite value, the best first, with what these documents say of them."""
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
    return sorted(found, key=lambda each: (each.violation, -each.selection))


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
