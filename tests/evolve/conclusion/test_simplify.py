"""Simpler recipes are kept while they score like the winner, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from engine.recipe import Recipe
from evolve.conclusion import simplify as simplification
from evolve.conclusion.finalists import Finalist
from evolve.conclusion.selection import Selection
from evolve.conclusion.simplify import Step, as_events, simplify
from evolve.search.draws import Draws
from evolve.trial import Evaluation, Failure, Job
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.depth import Family
from search_spaces.space import SearchSpace, search_space
from tasks.objective import Goal, Objective
from tasks.score import Score

FAMILY = Family("base", ("math", "code", "chat"), 8, ("embed.weight", "norm.weight"), "float32")
SPACE = search_space(Spec(FAMILY, ("task_arithmetic",), SPACES["per_layer"], 0, ("mlp",), {}, seed=0))
OBJECTIVE = Objective((Goal("t", "acc,none", 1.0, True), Goal("u", "acc,none", 1.0, True)))
DOCUMENTS = {"t": tuple(range(200)), "u": tuple(range(200))}
CHUNKS = Draws(DOCUMENTS, 0).chunks(0)

Worth = Callable[[Recipe], float]  # share of right answers


class Worths:
    """Scores a recipe by a rule; counts the documents that were asked."""

    def __init__(self, worth: Worth, turned: int = 0) -> None:
        self.worth, self.turned, self.documents = worth, turned, 0

    def measured(self, recipe: Recipe, only: Any) -> Score:
        share, measures = self.worth(recipe), {}
        turned = 0 if recipe == VARIED else self.turned  # other documents are right then
        for task, ids in DOCUMENTS.items():
            chosen = ids if only is None else only[task]
            # Documents are ever harder in an order of their own, so every part of them has the same share.
            measures[task] = {
                "acc,none": {each: float(((each * 77 + turned) % 200 + 0.5) / 200 < share) for each in chosen}
            }
        self.documents += sum(len(each["acc,none"]) for each in measures.values())
        return Score(measures, {})

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            recipe = job.recipe
            if recipe is None or self.worth(recipe) < 0:
                yield job, Evaluation(Failure("merge", "no"))
            else:
                yield job, Evaluation(self.measured(recipe, job.only))

    def close(self) -> None: ...


def recipe_at(space: SearchSpace, value: Callable[[Any], float]) -> Recipe:
    return space.decode(tuple(gene.to_unit(value(gene)) for gene in space.genes))


def selection_of(recipe: Recipe, executor: Worths, baseline: float | None = None) -> Selection:
    measures = executor.measured(recipe, None).measures
    winner = Finalist("trial 7", recipe, 0.9, OBJECTIVE.value(measures), error=0.02)
    ranked = [winner]
    if baseline is not None:
        uniform = recipe_at(SPACE, lambda gene: 0.3)
        ranked.append(Finalist("uniform average", uniform, 0.5, baseline, kind="start"))
    return Selection(tuple(ranked), (), {each.name: measures for each in ranked})


def simpler(
    worth: Worth, recipe: Recipe, baseline: float | None = None, turned: int = 0
) -> tuple[Finalist, list[Step], Worths]:
    executor = Worths(worth, turned)
    selection, steps = simplify(
        selection_of(recipe, executor, baseline), FAMILY, OBJECTIVE, executor, lambda _: None, chunks=CHUNKS
    )
    return selection.ranked[0], steps, executor


VARIED = recipe_at(
    SPACE, lambda gene: {"math": 0.8123, "code": 0.4321, "chat": 0.0311}[gene.model] + 0.001 * (gene.position or 0)
)


def test_a_recipe_whose_details_do_not_matter_becomes_one_line_a_source() -> None:
    found, steps, _ = simpler(lambda recipe: 0.7 if {"math", "code"} <= {*recipe.references} else 0.3, VARIED)
    assert found.recipe.models is not None
    assert [entry.model for entry in found.recipe.models] == ["base", "math", "code"]
    assert [entry.parameters for entry in found.recipe.models] == [None, {"weight": 0.8}, {"weight": 0.4}]
    assert (found.name, found.of, found.search) == ("trial 7, simplified", "trial 7", None)
    told = {step.step: step.kept for step in steps}
    assert told["without chat"]
    assert not told["without math"]
    assert told["one block of layers"]
    assert len(steps) <= simplification.SCORINGS


def test_what_says_the_same_in_other_words_is_not_tried() -> None:
    """A space without module groups, whose layers are alike but for one: nothing about groups is scored or told."""
    plain = search_space(Spec(FAMILY, ("task_arithmetic",), SPACES["per_layer"], 0, (), {}, seed=0))
    odd = recipe_at(plain, lambda gene: 0.8 if gene.position == 3 else 0.3)
    executor = Worths(lambda recipe: 0.7 if recipe == odd else 0.2)
    selection, steps = simplify(selection_of(odd, executor), FAMILY, OBJECTIVE, executor, lambda _: None, chunks=CHUNKS)
    assert selection.ranked[0].recipe == odd, "in other words alone it is no other finalist"
    assert not any("module groups" in step.step or "decimal" in step.step for step in steps)
    assert any("blocks" in step.step for step in steps)


def test_what_layers_write_keeps_its_own_scale() -> None:
    scale = {"scale": [{"filter": ".o_proj.", "value": 0.523}, {"filter": ".down_proj.", "value": 0.523}]}
    slices = [
        {"sources": [{"model": "math", "layer_range": [0, 8]}]},
        {"sources": [{"model": "math", "layer_range": [6, 8], "parameters": scale}]},
    ]
    found, steps, _ = simpler(lambda _: 0.7, Recipe.model_validate({"merge_method": "passthrough", "slices": slices}))
    assert [step.step for step in steps] == ["2 decimals", "1 decimal"]
    assert found.recipe.slices is not None
    kept = found.recipe.slices[1].sources[0].parameters
    assert kept == {"scale": [{"filter": each, "value": 0.5} for each in (".o_proj.", ".down_proj.")]}


def test_what_matters_stays() -> None:
    """Only blocks that tell the first two layers from the rest are worth anything."""

    def value(gene: Any) -> float:
        return 0.9 if gene.position in (0, 1) else 0.1 + 0.002 * (gene.position or 0)

    def worth(recipe: Recipe) -> float:
        first = recipe.slices[0].sources[0].layer_range if recipe.slices else [0, 8]
        return 0.7 if list(first or ()) in ([0, 1], [0, 2]) else 0.4

    found, _, _ = simpler(worth, recipe_at(SPACE, value))
    assert found.recipe.slices is not None
    assert [list(each.sources[0].layer_range or ()) for each in found.recipe.slices] == [[0, 2], [2, 8]]


def test_a_bad_try_costs_few_documents_and_tries_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found, steps, executor = simpler(lambda recipe: 0.9 if recipe == VARIED else 0.1, VARIED)
    assert (found.recipe, found.of) == (VARIED, "")
    assert not any(step.kept for step in steps)
    whole = sum(map(len, DOCUMENTS.values()))
    assert executor.documents == whole + sum(step.documents for step in steps)
    assert all(step.documents <= whole / 4 for step in steps)
    monkeypatch.setattr(simplification, "SCORINGS", 2)
    assert len(simpler(lambda recipe: 0.9 if recipe == VARIED else 0.1, VARIED)[1]) == 2


def test_failures_are_no_simplification() -> None:
    found, steps, _ = simpler(lambda recipe: 0.9 if recipe == VARIED else -1.0, VARIED)
    assert found.recipe == VARIED
    assert {step.difference for step in steps} == {None}


def test_the_lead_over_the_best_baseline_is_not_given_away() -> None:
    def worth(recipe: Recipe) -> float:
        return 0.6 if recipe == VARIED else 0.59

    assert simpler(worth, VARIED, turned=20)[0].of == "trial 7", "one point of a hundred is within the error"
    assert simpler(worth, VARIED, 0.5, turned=20)[0].of == "trial 7"
    assert simpler(worth, VARIED, 0.58, turned=20)[0].of == "", "half of the lead would be gone"


def test_floors_hold_for_the_simpler_recipe_too() -> None:
    executor = Worths(lambda recipe: 0.6 if recipe == VARIED else 0.59, turned=20)
    base = executor.measured(recipe_at(SPACE, lambda gene: 0.6), None).measures  # .59
    floors = {"t": 0.0}
    lower = Worths(lambda recipe: 0.6 if recipe == VARIED else 0.585, turned=20)
    for given, kept in ((executor, True), (lower, False)):
        selection, _ = simplify(
            selection_of(VARIED, given),
            FAMILY,
            OBJECTIVE,
            given,
            lambda _: None,
            chunks=CHUNKS,
            floors=floors,
            base=base,
        )
        assert (selection.ranked[0].of != "") == kept


def test_a_baseline_that_won_is_left_as_it_is() -> None:
    executor = Worths(lambda _: 0.5)
    selection = selection_of(VARIED, executor)
    start = Selection((Finalist("greedy soup of 2", VARIED, 0.5, 0.5, kind="start"),), (), selection.measures)
    assert simplify(start, FAMILY, OBJECTIVE, executor, lambda _: None) == (start, [])


def test_only_what_was_taken_is_an_event() -> None:
    steps = [Step("without chat", True, -0.01, 0.02, 400), Step("1 decimal", False, -0.2, 0.02, 50)]
    (event,) = as_events(steps, Finalist("trial 7", VARIED, 0.9))
    assert (event["step"], event["winner"], event["documents"]) == ("without chat", VARIED.digest, 400)


def test_perplexities_are_compared_on_the_same_documents_alone() -> None:
    """The first documents are easy and the last ones hard: a recipe that answers the same is as good after a part."""
    objective = Objective((Goal("t", "word_perplexity,none", 1.0, False, "weighted_perplexity"),))
    measure = objective.goals[0].measure

    class Same:
        def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
            for job in jobs:
                yield job, Evaluation(Score(self.measured(job.only), {}))

        def measured(self, only: Any) -> Any:
            ids = DOCUMENTS["t"] if only is None else only["t"]
            easy = set(CHUNKS[0]["t"])
            answers = {each: (-1.0 if each in easy else -9.0) - 0.01 * (each % 3) for each in ids}
            return {"t": {measure: answers, measure + "/weight": dict.fromkeys(ids, 3.0)}}

        def close(self) -> None: ...

    executor = Same()
    winner = Finalist("trial 7", VARIED, 0.9, 0.0)
    selection = Selection((winner,), (), {"trial 7": executor.measured(None)})
    _, steps = simplify(selection, FAMILY, objective, executor, lambda _: None, chunks=CHUNKS)
    assert [step.kept for step in steps] == [True] * len(steps)
    assert {step.difference for step in steps} == {0.0}
    assert {step.documents for step in steps} == {len(DOCUMENTS["t"])}
