"""Who meets on the selection documents: the best few of the search, what the optimizer believes in, where gradients
led, and the baselines of the opening, so that the winner is never worse than the best of these there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.recipe import Recipe
from evolve.errors import RunError
from evolve.search.candidates import recipe_of
from evolve.search.loop import GRADIENT
from evolve.search.opening import START
from evolve.statistics.floors import violation
from evolve.statistics.levels import ONE_SIDED
from evolve.statistics.paired import clearly_below
from evolve.trial import Point, Trial
from search_spaces.space import SearchSpace
from tasks.objective import Objective, Utilities, weighted_mean

NO_ANSWERS: Mapping[str, Utilities] = {}
Kind = Literal["found", "mean", "climbed", "start"]
Floors = Mapping[str, float]


@dataclass(frozen=True)
class Finalist:
    """A recipe of the last round and what it scored so far (the optimizer's mean was never searched).

    `search` and `selection` are values of the objective, `error` the standard error of the first; `metrics`: set ->
    task -> metric as lm-eval prints it; `documents`: those of the selection set that it was scored on; `violation`: by
    how much it misses floors on them; `kind`: found by the search, the optimizer's mean, where gradients led, or of the
    opening; `of`: the finalist that it was simplified from.
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
    return weighted_mean(trial.parts, weights) if trial.parts.keys() == weights.keys() else float(trial.value or 0.0)


def name_of(trial: Trial) -> str:
    return trial.origin.removeprefix(START) if trial.origin.startswith(START) else f"trial {trial.id}"


def kind_of(trial: Trial) -> Kind:
    return "start" if trial.origin.startswith(START) else "climbed" if trial.origin == GRADIENT else "found"


def finalist_of(trial: Trial, space: SearchSpace, objective: Objective) -> Finalist:
    return Finalist(
        name_of(trial),
        recipe_of(trial, space),
        decided_value(trial, objective),
        metrics={"search": trial.tasks},
        kind=kind_of(trial),
        error=trial.standard_error,
    )
