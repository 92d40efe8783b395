"""Simpler recipes: the same merge in fewer words, or fewer numbers and no other change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.merge import merge
from engine.plan import plan
from engine.recipe import Recipe
from evolve.conclusion.coarsening import (
    coarser,
    rounded,
    same_for_modules,
    same_outside,
    sources_by_size,
    tidy,
    without,
)
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.depth import Family
from search_spaces.space import SearchSpace, search_space

MODELS = Path(__file__).parents[3] / "tasks" / "demo" / "models"
BASE, ONE, OTHER = (str(MODELS / name) for name in ("base", "reverse", "sort"))
CHECKPOINTS = {name: open_checkpoint(name) for name in (BASE, ONE, OTHER)}
LAYERS = CHECKPOINTS[BASE].config["num_hidden_layers"]
OUTSIDE = tuple(name for name in CHECKPOINTS[BASE].tensors if ".layers." not in name)
FAMILY = Family(BASE, (ONE, OTHER), LAYERS, OUTSIDE, "float32")


def space(kind: str = "per_layer", count: int = 0, modules: tuple[str, ...] = ("self_attn", "mlp")) -> SearchSpace:
    return search_space(Spec(FAMILY, ("task_arithmetic",), SPACES[kind], count, modules, {}, seed=0))


def recipe_at(given: SearchSpace, place: Any) -> dict[str, Any]:
    point = tuple(place(index, gene) for index, gene in enumerate(given.genes))
    return given.decode(point).model_dump(mode="json", exclude_none=True)


def varied(given: SearchSpace) -> dict[str, Any]:
    return recipe_at(given, lambda index, gene: (index * 37 % 101) / 101)


def merged(data: dict[str, Any]) -> dict[str, torch.Tensor]:
    return dict(merge(plan(Recipe.model_validate(data), CHECKPOINTS), "cpu"))


def weights(data: dict[str, Any]) -> dict[str, Any]:
    return {each["model"]: each.get("parameters", {}).get("weight") for each in data["models"]}


def test_equal_blocks_are_one_and_the_merge_is_the_same() -> None:
    for kind, count in (("per_layer", 0), ("blocks", 3)):
        data = recipe_at(space(kind, count), lambda index, gene: 0.4 if gene.model == "sort" else 0.2)
        short = tidy(data, FAMILY)
        assert "slices" not in short
        assert all(isinstance(value, float) for value in weights(short).values() if value is not None)
        before, after = merged(data), merged(short)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_differs_stays_and_means_the_same() -> None:
    data = recipe_at(space(), lambda index, gene: 0.6 if gene.position in (0, 1) and gene.group == "mlp" else 0.2)
    short = tidy(data, FAMILY)
    assert [each["sources"][0]["layer_range"] for each in short["slices"]] == [[0, 2], [2, LAYERS]]
    before, after = merged(data), merged(short)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_blocks_are_joined_from_the_most_alike_on() -> None:
    data = recipe_at(space(modules=()), lambda index, gene: 0.9 if gene.position == 0 else 0.1 + 0.01 * index / 30)
    levels = coarser(data, FAMILY)
    assert [len(each.get("slices", [None])) for each in levels] == list(range(LAYERS - 1, 0, -1))
    assert levels[-2]["slices"][0]["sources"][0]["layer_range"] == [0, 1], "the odd one is joined last"
    assert "models" in levels[-1]


def test_joined_values_are_means_over_layers() -> None:
    data = varied(space(modules=()))
    (last,) = coarser(data, FAMILY)[-1:]
    for model in (ONE, OTHER):
        own = [
            entry["value"]
            for block in data["slices"]
            for source in block["sources"]
            if source["model"] == model
            for entry in source["parameters"]["weight"]
            if entry.get("filter") not in OUTSIDE
        ]
        inside = next(entry["value"] for entry in weights(last)[model] if "filter" not in entry)
        assert inside == pytest.approx(sum(own) / LAYERS, abs=1e-4)
    assert {entry.get("filter") for entry in weights(last)[ONE]} == {*OUTSIDE, None}
    Recipe.model_validate(last)


def test_a_gradient_over_depth_becomes_its_mean() -> None:
    data = recipe_at(space("smooth", 3, ()), lambda index, gene: 0.1 * (gene.position or 0))
    (flat,) = coarser(data, FAMILY)
    assert not any(isinstance(entry["value"], list) for entry in weights(flat)[ONE])
    assert coarser(flat, FAMILY) == []


def test_groups_and_outside_become_one_value() -> None:
    data = coarser(varied(space()), FAMILY)[-1]
    inside = same_for_modules(data, FAMILY)
    assert [entry.get("filter") for entry in weights(inside)[ONE]] == [*OUTSIDE, None]
    everywhere = same_outside(inside, FAMILY)
    assert isinstance(weights(everywhere)[ONE], float)
    assert weights(everywhere)[ONE] == weights(inside)[ONE][-1]["value"]


def test_numbers_are_rounded_and_equal_ones_then_joined() -> None:
    data = recipe_at(space(), lambda index, gene: 0.3333 + 0.0001 * (index % 3))
    text = Recipe.model_validate(rounded(data, 1, FAMILY)).to_yaml()
    assert "slices" not in text
    assert text.count("weight: 0.5") == 2, "a third of the way to 1.5"


def test_a_source_can_be_left_out_but_not_the_last_one() -> None:
    data = recipe_at(space(), lambda index, gene: 0.1 if gene.model == "sort" else 0.5)
    assert sources_by_size(data) == [OTHER, ONE]
    fewer = without(data, OTHER)
    assert fewer is not None
    assert OTHER not in Recipe.model_validate(fewer).references
    assert without(fewer, ONE) is None
    assert without(data, BASE) is None
    assert OTHER in str(data), "the recipe that it was made from is as it was"


def test_a_method_of_two_models_keeps_both() -> None:
    pair = {"merge_method": "slerp", "base_model": BASE, "models": [{"model": BASE}, {"model": ONE}]}
    assert without({**pair, "parameters": {"t": 0.5}}, ONE) is None


def test_layers_out_of_order_are_no_blocks() -> None:
    slices = [{"sources": [{"model": ONE, "layer_range": [place, place + 1]}]} for place in (1, 0, 2)]
    assert coarser({"merge_method": "passthrough", "slices": slices}, FAMILY) == []
