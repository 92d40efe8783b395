"""Who meets on the selection documents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.recipe import Recipe
from evolve.conclusion.finalists import Finalist, choose_finalists, opening_recipes
from evolve.errors import RunError
from evolve.trial import Trial
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.depth import Family
from search_spaces.space import search_space
from tasks.objective import Goal, Objective

FAMILY = Family("base", ("math", "code"), 4, ("embed",), "float32")
ACCURACY = Objective((Goal("t", "acc,none", 1.0, True),))
LIKELIER = Objective(ACCURACY.goals, metric=0.0, loglikelihood=1.0)
PERPLEXITY = Objective((Goal("t", "word_perplexity,none", 1.0, False, "weighted_perplexity"),))
SPACE = search_space(Spec(FAMILY, ("task_arithmetic",), SPACES["blocks"], 1, (), {}, seed=0))


def recipe_of(weight: float) -> Recipe:
    return Recipe.model_validate(
        {"merge_method": "linear", "models": [{"model": "math", "parameters": {"weight": weight}}]}
    )


def finalist(weight: float) -> Finalist:
    return Finalist(f"trial {weight}", recipe_of(weight), 0.9)


def trial(number: int, value: float, origin: str = "search", *, whole: bool = True, weight: float = 0.0) -> Trial:
    recipe = recipe_of(weight or number / 100 + 0.5)
    return Trial(
        number,
        0,
        (),
        recipe.digest,
        value,
        standard_error=0.02,
        tasks={"t": value},
        parts={"t": value},
        origin=origin,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        whole=whole,
    )


def chosen(trials: list[Trial], count: int = 2, floors: dict[str, float] | None = None, base: str = "") -> list[str]:
    found = choose_finalists(SPACE, trials, None, count, objective=ACCURACY, floors=floors or {}, base=base)
    return [each.name for each in found]


def test_finalists_are_the_best_few_and_the_baselines_that_are_not_clearly_worse() -> None:
    trials = [
        trial(0, 0.3, "start: base"),
        trial(1, 0.5, "start: math"),
        trial(2, 0.48, "start: greedy soup of 2"),
        trial(3, 0.47, "start: greedy soup of 2"),
        trial(4, 0.7),
        trial(5, 0.6),
        trial(6, 0.55),
        trial(7, 0.9, whole=False),
    ]
    assert chosen(trials) == ["trial 4", "trial 5", "math", "greedy soup of 2", "greedy soup of 2 (2)"]
    assert "base" in chosen(trials, floors={"t": 0.1}, base=trials[0].digest)
    assert chosen([*trials, trial(8, 0.8, weight=0.54)], 2)[:2] == ["trial 8", "trial 5"], "two points, one recipe"
    names = opening_recipes(trials, SPACE)
    assert list(names) == ["base", "math", "greedy soup of 2", "greedy soup of 2 (2)"]
    assert names["greedy soup of 2"].digest == trials[2].digest


def test_finalists_that_miss_a_floor_on_the_search_documents_come_after_those_that_do_not() -> None:
    low = Objective((Goal("t", "acc,none", 1.0, True), Goal("u", "acc,none", 1.0, True)))
    base = trial(0, 0.5, "start: base")
    trials = [
        Trial(**{**vars(each), "tasks": {"t": t, "u": u}, "parts": {"t": t, "u": u}, "value": (t + u) / 2})
        for each, t, u in ((base, 0.5, 0.5), (trial(1, 0.0), 0.9, 0.3), (trial(2, 0.0), 0.55, 0.5))
    ]
    found = choose_finalists(SPACE, trials, None, 1, objective=low, floors={"u": 0.1}, base=base.digest)
    assert [each.name for each in found] == ["trial 2", "base"]


def test_the_mean_is_a_finalist_and_nothing_scored_is_an_error() -> None:
    mean = SPACE.start[0]
    found = choose_finalists(SPACE, [trial(1, 0.5)], mean, 3, objective=ACCURACY, floors={}, base="")
    assert [(each.name, each.kind, each.search) for each in found] == [
        ("trial 1", "found", 0.5),
        ("mean of the search", "mean", None),
    ]
    with pytest.raises(RunError, match="no candidate could be scored"):
        choose_finalists(SPACE, [trial(1, 0.5, whole=False)], mean, 3, objective=ACCURACY, floors={}, base="")


def test_baselines_are_compared_on_the_documents_that_both_met() -> None:
    """Eight points apart and each with an error of five: told apart only where answers are paired."""
    best, worse = trial(0, 0.58, "start: math"), trial(1, 0.5, "start: code")
    trials = [replace(each, standard_error=0.05) for each in (best, worse)]
    common = {each: float(each < 50) for each in range(100)}
    answers = {
        best.digest: {"t": {each: float(each < 58) for each in common}},
        worse.digest: {"t": common},
    }

    def names(known: dict[str, dict[str, dict[int, float]]]) -> list[str]:
        found = choose_finalists(
            SPACE, [*trials, trial(2, 0.7)], None, 1, objective=ACCURACY, floors={}, base="", answers=known
        )
        return [each.name for each in found]

    assert names({}) == ["trial 2", "math", "code"]
    assert names(answers) == ["trial 2", "math"]
