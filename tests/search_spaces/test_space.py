"""Genes and recipes: what a space spans, and that every point of it is a recipe that means what it says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.methods import METHODS
from engine.recipe import Recipe
from search_spaces import SPACES
from search_spaces.assemble import Spec, labels
from search_spaces.bounds import Bounds, Choices, Fixed, Range
from search_spaces.depth import Family, block_ranges
from search_spaces.gene import Gene, Value
from search_spaces.space import SearchSpace, search_space

FAMILY = Family("org/base", ("org/math", "b+c/math", "org/chat"), 6, ("embed.weight", "norm.weight"), "bfloat16")


def space(
    methods: tuple[str, ...] = ("ties",),
    kind: str = "blocks",
    count: int = 2,
    modules: tuple[str, ...] = (),
    bounds: Mapping[str, Bounds] | None = None,
) -> SearchSpace:
    return search_space(Spec(FAMILY, methods, SPACES[kind], count, modules, bounds or {}, seed=3))


SHAPES = [
    ("blocks", 1, ()),
    ("blocks", 4, ("self_attn", "mlp")),
    ("per_layer", 0, ("mlp",)),
    ("smooth", 3, ("self_attn",)),
]


@pytest.mark.parametrize(("kind", "count", "modules"), SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_space_gives_recipes(method: str, kind: str, count: int, modules: tuple[str, ...]) -> None:
    made = space((method,), kind, count, modules)
    for point in (*made.start, (0.0,) * len(made.genes), (1.0,) * len(made.genes)):
        recipe = made.decode(point)
        assert recipe.merge_method == method
        assert Recipe.from_yaml(recipe.to_yaml()).digest == recipe.digest


def test_genes_are_blocks_times_groups_times_sources_and_one_group_outside() -> None:
    made = space(("task_arithmetic",), "blocks", 4, ("self_attn", "mlp"))
    assert len(made.genes) == 3 * (4 * 3 + 1)
    names = {gene.name for gene in made.genes}
    assert {"weight.math.outer", "weight.math-2.mlp.layers_1_2", "weight.chat.rest.layers_4_5"} <= names


def test_a_method_of_a_pair_that_needs_no_base_merges_task_vectors_of_the_family() -> None:
    made = space(("nuslerp",))
    pick = next(gene for gene in made.genes if gene.name == "nuslerp.models")
    assert pick.choices == ("base+math+math-2", "base+math+chat", "base+math-2+chat")
    assert {gene.name.split(".")[1] for gene in made.genes if gene is not pick} == {"math", "math-2", "chat"}
    for unit in (0.0, 0.5, 1.0):
        recipe = made.decode([unit] * len(made.genes))
        assert recipe.base_model == "org/base"
        assert len(recipe.references) == 3


def test_methods_share_genes_where_bounds_agree() -> None:
    alone = {gene.name for gene in space(("ties",)).genes}
    both = {gene.name for gene in space(("ties", "task_arithmetic")).genes}
    assert both == alone | {"method"}


def test_methods_with_other_bounds_have_their_own_genes() -> None:
    names = {gene.name for gene in space(("linear", "ties")).genes}
    assert any(name.startswith("linear.weight") for name in names)
    assert any(name.startswith("ties.weight") for name in names)


def test_pairs_are_a_gene_for_methods_of_two_models() -> None:
    made = space(("slerp",))
    pick = next(gene for gene in made.genes if gene.name == "slerp.models")
    assert len(pick.choices) == 6
    recipe = made.decode([gene.to_unit("math+chat") if gene is pick else 0.5 for gene in made.genes])
    assert recipe.base_model == "org/math"
    assert recipe.tokenizer_source == "org/base"
    assert set(recipe.references) == {"org/math", "org/chat", "org/base"}


def test_fixed_and_chosen_parameters() -> None:
    made = space(bounds={"density": Fixed(0.3), "normalize": Choices((True, False)), "weight": Range(0.2, 0.4)})
    assert not [gene for gene in made.genes if "density" in gene.name]
    assert next(gene for gene in made.genes if gene.name == "normalize").choices == (True, False)
    recipe = made.decode(made.start[0])
    assert recipe.parameters is not None
    assert recipe.parameters["density"] == 0.3


def test_start_points_are_uniform_strengths() -> None:
    made = space(("task_arithmetic",), bounds={"weight": Range(0.0, 2.0)})
    weights = [{round(float(v), 2) for v in made.named(point).values()} for point in made.start]
    assert weights == [{0.33}, {0.1}, {0.3}, {0.6}, {1.0}]


@given(st.integers(1, 40), st.integers(1, 40))
def test_blocks_cover_the_layers_once(count: int, layers: int) -> None:
    count = min(count, layers)
    ranges = block_ranges(count, layers)
    assert list(itertools.chain(*(range(a, b) for a, b in ranges))) == list(range(layers))
    sizes = [b - a for a, b in ranges]
    assert max(sizes) - min(sizes) <= 1


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(0, 1))
def test_continuous_genes_go_there_and_back(low: float, width: float, unit: float) -> None:
    gene = Gene("g", low, low + width)
    assert gene.to_unit(gene.from_unit(unit)) == pytest.approx(unit, abs=1e-9)
    assert low <= float(gene.from_unit(unit)) <= low + width + 1e-9


@given(st.integers(-4, 4), st.integers(1, 9), st.floats(0, 1))
def test_whole_numbers_go_there_and_back_with_equal_shares(low: int, width: int, unit: float) -> None:
    gene = Gene("g", low, low + width, integer=True)
    value = gene.from_unit(unit)
    assert isinstance(value, int)
    assert low <= value <= low + width
    assert gene.from_unit(gene.to_unit(value)) == value
    shares = [gene.from_unit((step + 0.5) / 100 / (width + 1)) for step in range(100 * (width + 1))]
    assert all(shares.count(each) == 100 for each in range(low, low + width + 1))


@pytest.mark.parametrize("kind", ["blocks", "smooth"])
def test_a_range_of_whole_numbers_is_one_gene_for_the_whole_recipe(kind: str) -> None:
    made = space(("karcher",), kind, 3, bounds={"max_iter": Range(2, 5)})
    gene = next(gene for gene in made.genes if gene.parameter == "max_iter")
    assert (gene.integer, gene.low, gene.high, gene.position) == (True, 2, 5, None)
    recipe = made.decode([gene.to_unit(4) for gene in made.genes])
    assert recipe.parameters is not None
    assert recipe.parameters["max_iter"] == 4
    assert "{max_iter: 4}" in recipe.to_yaml()


def test_genes_say_where_they_stand() -> None:
    made = space(("linear", "ties"), "blocks", 2, ("mlp",))
    places = {gene.name: gene for gene in made.genes}
    inner = places["ties.weight.math.mlp.layers_3_5"]
    assert (inner.method, inner.parameter, inner.model, inner.group, inner.position) == (
        *("ties", "weight", "math", "mlp"),
        1,
    )
    outer = places["density.chat.outer"]
    assert (outer.method, outer.parameter, outer.model, outer.group, outer.position) == (
        *("", "density", "chat", "outer"),
        None,
    )
    assert places["method"].parameter == "method"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=9, unique=True), st.data())
def test_choices_go_there_and_back(choices: list[str], data: st.DataObject) -> None:
    gene = Gene("g", choices=tuple(choices))
    value = data.draw(st.sampled_from(choices))
    assert gene.from_unit(gene.to_unit(value)) == value
    assert gene.from_unit(1.0) == choices[-1]


@settings(max_examples=30)
@given(st.data())
def test_decoding_is_a_function_of_the_values(data: st.DataObject) -> None:
    made = space(("ties", "slerp"), "smooth", 2, ("mlp",))
    point = tuple(data.draw(st.floats(0, 1)) for _ in made.genes)
    again = tuple(gene.to_unit(value) for gene, value in zip(made.genes, made.named(point).values(), strict=True))
    assert made.decode(point).digest == made.decode(again).digest


def test_one_block_is_the_uniform_space() -> None:
    """Differential: one block, and blocks that all have the same values, merge alike."""
    one, four = space(("ties",), "blocks", 1), space(("ties",), "blocks", 4)
    assert {gene.name.replace(".layers", "") for gene in one.genes} == {
        gene.name.split(".layers")[0] for gene in four.genes
    }


def test_labels_are_short_and_distinct() -> None:
    assert labels(FAMILY.models) == {
        "org/base": "base",
        "org/math": "math",
        "b+c/math": "math-2",
        "org/chat": "chat",
    }
    assert labels(("a/x@main", "b/x"))["a/x@main"] == "x"


def wider(methods: tuple[str, ...], bounds: Mapping[str, Bounds] | None = None, **keys: Any) -> SearchSpace:
    return search_space(Spec(FAMILY, methods, SPACES["blocks"], 2, (), bounds or {}, seed=3, **keys))


def point_with(made: SearchSpace, **values: Value) -> list[float]:
    """The first start point with some genes' values changed; dots of names are written as __."""
    start = list(made.start[0])
    for index, gene in enumerate(made.genes):
        wanted = values.get(gene.name.replace(".", "__").replace("-", "_"))
        start[index] = start[index] if wanted is None else gene.to_unit(wanted)
    return start


def test_scale_is_one_gene_and_lambda_in_the_recipe() -> None:
    made = wider(("ties", "linear"), scale=Range(0.3, 2.5))
    gene = next(gene for gene in made.genes if gene.parameter == "lambda")
    assert (gene.name, gene.low, gene.high, gene.group, gene.position) == ("scale", 0.3, 2.5, "", None)
    recipe = made.decode(point_with(made, method="ties", scale=1.9))
    assert recipe.parameters == {"lambda": 1.9}
    assert "lambda" not in (made.decode(point_with(made, method="linear", scale=1.9)).parameters or {})


def test_scale_begins_at_one_and_carries_the_strength_where_weights_are_normalised() -> None:
    scales = [made.named(point)["scale"] for made in [wider(("ties",), scale=Range(0.3, 2.5))] for point in made.start]
    assert scales == [1.0, 0.3, 0.9, 1.8, 2.5]
    for fixed in ({}, {"normalize": Fixed(False)}):
        made = wider(("task_arithmetic",), fixed, scale=Range(0.3, 2.5))
        assert {made.named(point)["scale"] for point in made.start} == {1.0}


def test_negative_mirrors_the_weights_of_task_vectors_only() -> None:
    made = wider(("ties", "linear"), {"weight": Range(0.0, 0.8)}, negative=True)
    lows = {gene.name.split(".")[0]: (gene.low, gene.high) for gene in made.genes if gene.parameter == "weight"}
    assert lows == {"ties": (-0.8, 0.8), "linear": (0.0, 0.8)}
    own = wider(("ties",), {"weight": Range(-0.5, 1.0)}, negative=True)
    assert {(gene.low, gene.high) for gene in own.genes if gene.parameter == "weight"} == {(-0.5, 1.0)}


def test_sources_that_take_no_part_are_no_part_of_the_recipe() -> None:
    made = wider(("task_arithmetic",), subset=True)
    genes = [gene for gene in made.genes if gene.parameter == "take"]
    assert [gene.model for gene in genes] == ["math", "math-2", "chat"]
    assert all(made.named(point)[gene.name] for point in made.start for gene in genes)
    recipe = made.decode(point_with(made, take__math=False))
    assert set(recipe.references) == {"org/base", "b+c/math", "org/chat"}
    other = point_with(made, take__math=False, weight__math__layers__layers_0_2=1.2, weight__math__outer=0.9)
    assert other != point_with(made, take__math=False)
    assert made.decode(other).digest == recipe.digest


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "model_stock", "karcher"])
def test_a_recipe_without_any_source_is_never_made(method: str) -> None:
    made = wider((method,), subset=True)
    none = made.decode(point_with(made, take__math=False, take__math_2=False, take__chat=False))
    assert none.digest == made.decode(point_with(made)).digest
    assert len(none.references) == 4


@settings(max_examples=30)
@given(st.data())
def test_every_point_of_a_wide_space_is_a_recipe(data: st.DataObject) -> None:
    keys = {"scale": Range(0.3, 2.5), "negative": True, "subset": True}
    made = wider(("ties", "linear", "slerp", "model_stock"), **keys)
    point = tuple(data.draw(st.floats(0, 1)) for _ in made.genes)
    recipe = made.decode(point)
    assert Recipe.from_yaml(recipe.to_yaml()).digest == recipe.digest
