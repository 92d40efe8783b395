"""How every search begins: with the models themselves and the merges that people make by hand.

They are counted in the budget, remain what the result has to beat, and show where in the space to begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.recipe import Recipe
from evolve.errors import RunError
from evolve.search import baselines
from evolve.search.baselines import (
    ARITHMETIC,
    AVERAGE,
    TASK_ARITHMETIC_WEIGHT,
    averaged,
    model_recipes,
    opening_merges,
    start_name,
)
from evolve.search.study import Proposal, Study
from evolve.statistics.normalisation import gaps
from evolve.trial import Point, Trial
from search_spaces.depth import Family
from search_spaces.mixture import mixture_point
from search_spaces.space import SearchSpace
from tasks.objective import weighted_mean

START = "start: "  # how the origins of all these begin
EDIT = "edit: "  # and those of edits of the order of layers, which nobody makes by hand
BASE = START + baselines.BASE
KEPT = 3  # of the plain merges and of the start points, are never stopped early


@dataclass(frozen=True)
class Opened:
    """What a search begins with: the trials of the space's start points, where the best of all lies in the space, and
    where the best of those lies that all sources take part in.

    A point is None where there is none in the space.
    """

    starts: list[Trial]
    mean: Point | None
    foot: Point | None


def opening(study: Study, *, normalize: bool, floors: bool = False, together: bool = False) -> Opened:
    """Score the base, the sources and the plain merges, the start points and a greedy soup.

    The study's objective is normalised on the way where that is asked for. `together`: all but the soup at once, and
    nothing in parts, so that workers wait little; not where they are normalised, by what the models come to. Raises
    Spent, and RunError where neither the base nor any source could be scored, or not the base where `floors` are
    counted from it.
    """
    family, merges = study.space.spec.family, opening_merges(study.space)
    asked = proposals(model_recipes(family)), proposals(merges), start_proposals(study.space)
    if together and not normalize:
        everybody = [each for group in asked for each in group]
        trials = iter(study.score(everybody, keep=len(everybody)))
        models, plain, starts = ([next(trials) for _ in group] for group in asked)
        check(models, floors)
    else:
        models = study.score(asked[0], keep=len(asked[0]))
        check(models, floors)
        if normalize:
            study.objective = study.objective.normalised(measured_gaps(study, models))
        plain, starts = (study.score(group, keep=KEPT) for group in asked[1:])
    places = {trial.id: place_of(name, study.space) for name, trial in zip(merges, plain, strict=True)}
    places |= {trial.id: trial.point for trial in starts}
    foot = best_place(study, places)
    places[models[0].id] = mixture_point(study.space, {family.base: 1.0})
    soup, members = greedy_soup(study, family, models[1:], raced=not together)
    if soup is not None:
        places[soup.id] = mixture_point(study.space, dict.fromkeys(members, 1 / len(members)))
    return Opened(starts, best_place(study, places), foot)


def check(models: Sequence[Trial], floors: bool) -> None:
    """Raises RunError where a search cannot begin with what the models came to."""
    if all(trial.failure for trial in models):
        raise nothing_scored(models)
    if floors and models[0].failure:
        raise RunError(
            f"score.tasks: floors are counted from the base, which could not be scored ({models[0].failure.message}); "
            "name another base, or leave the floors out"
        )


def start_proposals(space: SearchSpace) -> list[Proposal]:
    """The points that the space begins with, one for each recipe: genes that its method leaves aside make no other."""
    origin = EDIT if space.spec.order else START
    plain = [place_of(name, space) for name in opening_merges(space)]
    points: dict[str, Proposal] = {}
    for point in space.start:
        if point not in plain:
            recipe = space.decode(point)
            points.setdefault(recipe.digest, Proposal(recipe, origin + start_name(space, point), point))
    return [*points.values()]


def most_candidates(space: SearchSpace) -> int:
    """How many candidates an opening has at most."""
    family = space.spec.family
    return len(model_recipes(family)) + len(opening_merges(space)) + len(space.start) + len(family.sources) - 1


def best_place(study: Study, places: Mapping[int, Point | None]) -> Point | None:
    """Where the best of these trials lies, by id, of those that lie somewhere and were scored whole."""
    known = [trial for trial in study.trials if places.get(trial.id) and trial.whole and trial.failure is None]
    best = max(known, key=lambda trial: weighted_mean(trial.parts, study.objective.weights), default=None)
    return places[best.id] if best is not None else None


def best_model(study: Study, task: str) -> Point | None:
    """Where the source lies that is best at the task; None where it lies outside of the space."""
    sources = study.space.spec.family.sources
    found = study.trials[1 : 1 + len(sources)]  # an opening begins with the base and the sources
    known = [(trial.parts[task], model) for trial, model in zip(found, sources, strict=True) if trial.parts]
    return mixture_point(study.space, {max(known)[1]: 1.0}) if known else None


def place_of(name: str, space: SearchSpace) -> Point | None:
    """Where a plain merge lies in a space of task arithmetic alone, whose start has some of them too; else None."""
    sources = space.spec.family.sources
    weights = {AVERAGE: 1 / len(sources), ARITHMETIC: TASK_ARITHMETIC_WEIGHT}
    if space.spec.methods != ("task_arithmetic",) or name not in weights:
        return None
    return mixture_point(space, dict.fromkeys(sources, weights[name]))


def proposals(recipes: Mapping[str, Recipe]) -> list[Proposal]:
    return [Proposal(recipe, START + name) for name, recipe in recipes.items()]


def measured_gaps(study: Study, models: Sequence[Trial]) -> dict[str, float]:
    """Task -> from the base to its best source, as the ledger has it."""
    base, *sources = models
    if base.failure:
        raise RunError("score.normalize: the base could not be scored, and parts are measured from it; set it to false")

    def measure() -> dict[str, Any]:
        found = gaps(base.parts, [each.parts for each in sources if each.parts], base.errors)
        return {"gaps": found}

    made: dict[str, float] = study.decide("normalised", measure)["gaps"]
    return made


def greedy_soup(
    study: Study, family: Family, sources: Sequence[Trial], *, raced: bool = True
) -> tuple[Trial | None, list[str]]:
    """Average in source after source, the best first, and keep those that do not make it worse; returns the best trial
    and its sources, which is a single one where nothing helps it.

    `raced`: one that is clearly worse than the soup before stops early, after parts that somebody may wait for.

    Wortsman et al. 2022, "Model soups", arXiv:2203.05482, recipe 1.
    """
    models = {trial.id: model for trial, model in zip(sources, family.sources, strict=True)}

    def value(trial: Trial) -> float:
        return weighted_mean(trial.parts, study.objective.weights)

    ranked = sorted((each for each in sources if each.failure is None), key=lambda each: (-value(each), each.id))
    if not ranked:
        return None, []
    best, *others = ranked
    soup = [models[best.id]]
    for trial in others:
        wider = [model for model in family.sources if model in (*soup, models[trial.id])]
        proposal = Proposal(averaged(family, wider), f"{START}greedy soup of {len(wider)}")
        (tried,) = study.score([proposal], keep=1 if raced else 2, rival=best)
        if tried.failure is None and value(tried) >= value(best):
            best, soup = tried, wider
    return best, soup


def nothing_scored(trials: Sequence[Trial]) -> RunError:
    why = "; ".join(dict.fromkeys(f"{t.failure.kind}: {t.failure.message}" for t in trials if t.failure))
    return RunError(
        f"the search: all of the first {len(trials)} candidates failed ({why[:500]}); "
        "put this right and choose another name, since failures are recorded"
    )
