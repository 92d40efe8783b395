"""The order of layers: which edits genes make, and that what is laid out in memory is what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.merge import merge
from engine.plan import plan
from engine.recipe import Recipe
from engine.write import write_checkpoint
from evolve.search.baselines import model_recipes
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Range
from search_spaces.depth import Family
from search_spaces.gene import Value
from search_spaces.layer_order import LayerOrder, edits_text, usual
from search_spaces.residual import residual_writers
from search_spaces.space import SearchSpace, search_space

MODELS = Path(__file__).parents[2] / "tasks" / "demo" / "models"
BASE, SORT = str(MODELS / "base"), str(MODELS / "sort")
FAMILY = Family("org/base", ("org/math", "org/chat"), 5, ("embed.weight", "norm.weight"), "bfloat16")
WRITERS = (".o_proj.", ".down_proj.")
Layers = list[tuple[str, int]]


def space(family: Family = FAMILY, **keys: object) -> SearchSpace:
    order = LayerOrder(**{"scale": Range(0.0, 1.0), "writers": WRITERS, **keys})  # type: ignore[arg-type]
    return search_space(Spec(family, ("passthrough",), SPACES["blocks"], 1, (), {}, seed=0, order=order))


def point(made: SearchSpace, changes: Mapping[str, Value]) -> tuple[float, ...]:
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    assert changes.keys() <= {gene.name for gene in made.genes}
    return tuple(gene.to_unit(changes.get(gene.name, usual(gene))) for gene in made.genes)


def laid_out(recipe: Recipe, layers: int = 5) -> Layers:
    if recipe.models is not None:
        return [(entry.model.split("/")[-1], layer) for entry in recipe.models for layer in range(layers)]
    sources = [entry.sources[0] for entry in recipe.slices or ()]
    return [(source.model.split("/")[-1], layer) for source in sources for layer in range(*source.layer_range)]


def own(name: str, *layers: int) -> Layers:
    return [(name, layer) for layer in layers]


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, own("base", 0, 1, 2, 3, 4)),
        ({"from": "chat"}, own("chat", 0, 1, 2, 3, 4)),
        ({"from.layer_2": "math"}, [*own("base", 0, 1), ("math", 2), *own("base", 3, 4)]),
        ({"times.layer_1": 0, "times.layer_4": 2}, own("base", 0, 2, 3, 4, 4)),
        ({"move.layer_1": 1}, own("base", 0, 2, 1, 3, 4)),
        ({"move.layer_4": -1}, own("base", 0, 1, 2, 4, 3)),
        ({"move.layer_0": 3, "move.layer_3": -3}, own("base", 3, 1, 2, 0, 4)),
        ({"move.layer_0": 2}, own("base", 1, 2, 0, 3, 4)),
        ({"move.layer_4": 3}, own("base", 0, 1, 2, 3, 4)),
    ],
)
def test_one_gene_is_one_edit(changes: dict[str, Value], layers: Layers) -> None:
    made = space()
    assert laid_out(made.decode(point(made, changes))) == layers


def test_consecutive_layers_are_one_slice_and_later_passes_are_scaled() -> None:
    made = space(rounds=2)
    changes = {"times.round_2.layer_3": 1, "times.round_2.layer_2": 1, "times.layer_0": 2, "scale": 0.25}
    slices = made.decode(point(made, changes)).slices
    assert slices is not None
    found = [(entry.sources[0].layer_range, entry.sources[0].parameters) for entry in slices]
    scaled = {"scale": [{"filter": writer, "value": 0.25} for writer in WRITERS]}
    assert found == [((0, 1), None), ((0, 1), scaled), ((1, 5), None), ((2, 4), scaled)]


def test_a_model_as_it_is_is_the_recipe_that_every_search_has_scored() -> None:
    made = space()
    known = {name: recipe.digest for name, recipe in model_recipes(FAMILY).items()}
    found = {name: made.decode(point(made, {"from": name})).digest for name in ("base", "math", "chat")}
    assert found == known


def test_a_model_without_layers_is_never_made() -> None:
    made = space()
    none = made.decode(point(made, {"from": "chat"} | {f"times.layer_{layer}": 0 for layer in range(5)}))
    assert none.digest == made.decode(point(made, {"from": "chat"})).digest


def test_genes_that_change_nothing_give_the_same_recipe() -> None:
    made = space()
    same = [{"scale": 0.1}, {"from.layer_3": "base"}, {"move.layer_4": 2}]
    assert {made.decode(point(made, changes)).digest for changes in same} == {made.decode(point(made, {})).digest}


def test_the_search_begins_with_every_models_own_order_and_edits_of_the_sources() -> None:
    made = space()
    texts = [edits_text(made.genes, made.named(each)) for each in made.start]
    assert texts[:3] == ["layers of base", "layers of math", "layers of chat"]
    assert len(texts) == len(set(texts)) == len({made.decode(each).digest for each in made.start}) == 3 + 2 * 14
    assert {"layers of math, times.layer_4 0", "layers of chat, move.layer_2 1"} <= set(texts)


@pytest.mark.parametrize("layers", [2, 6, 7, 31, 80])
@pytest.mark.parametrize("sources", [1, 4, 9])
def test_starts_are_few_and_keep_every_layer_but_those_left_out(layers: int, sources: int) -> None:
    names = tuple(f"org/m{number}" for number in range(sources))
    made = space(Family("org/base", names, layers, (), "bfloat16"), move=layers)
    assert len(made.start) <= 1 + sources + max(54, 6 * sources)
    for each in made.start:
        values, got = made.named(each), [layer for _, layer in laid_out(made.decode(each), layers)]
        times = {layer: values[f"times.layer_{layer}"] for layer in range(layers)}
        assert {layer: got.count(layer) for layer in range(layers)} == times
        if any(values.get(f"move.layer_{layer}", 0) for layer in range(layers)):
            falls = sum(first > second for first, second in pairwise(got))
            assert falls == 1  # two runs of layers, each in its own order, in each other's place


@settings(max_examples=50)
@given(st.data())
def test_every_point_is_a_recipe_of_layers_that_exist(data: st.DataObject) -> None:
    made = space(rounds=2)
    values = made.named([data.draw(st.floats(0, 1)) for _ in made.genes])
    recipe = made.decode([gene.to_unit(values[gene.name]) for gene in made.genes])
    assert Recipe.from_yaml(recipe.to_yaml()).digest == recipe.digest
    assert {layer for _, layer in laid_out(recipe)} <= set(range(5))
    for before, after in pairwise(recipe.slices or ()):
        first, second = before.sources[0], after.sources[0]
        joined = (first.model, first.layer_range[1], first.parameters)
        assert joined != (second.model, second.layer_range[0], second.parameters)


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ("self_attn.q_proj self_attn.o_proj mlp.up_proj mlp.down_proj", (".o_proj.", ".down_proj.")),
        ("attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj", (".c_proj.",)),
        (
            "attention.query_key_value attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
            (".dense.", ".dense_4h_to_h."),
        ),
        ("self_attn.q_proj self_attn.out_proj fc1 fc2", (".out_proj.", ".fc2.")),
        ("self_attn.o_proj self_attn.q_proj block_sparse_moe.gate block_sparse_moe.experts.0.w2", (".o_proj.", ".w2.")),
        ("self_attn.q_proj self_attn.o_proj mlp.one mlp.two", ()),
        ("self_attn.o_proj mlp.down_proj post_feedforward_layernorm", ()),
    ],
)
def test_what_a_layer_writes_with_is_found_by_name(tensors: str, found: tuple[str, ...]) -> None:
    shapes = {f"model.layers.{layer}.{name}.weight": (4, 4) for layer in (0, 1) for name in tensors.split()}
    assert residual_writers({**shapes, "model.embed_tokens.weight": (9, 4)}) == found
    for name in shapes:
        inside = name.removeprefix("model.layers.0")
        assert sum(writer in inside for writer in found) <= 1


Make = Callable[[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]], str]


@pytest.fixture
def changed(tmp_path: Path) -> Make:
    """A copy of the demo's `sort` with other tensors."""

    def make(name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> str:
        shutil.copytree(SORT, tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
        return str(tmp_path / name)

    return make


def swapped(weights: dict[str, torch.Tensor], first: int = 1, second: int = 4) -> dict[str, torch.Tensor]:
    def there(name: str) -> str:
        for mine, other in ((first, second), (second, first)):
            if f".layers.{mine}." in name:
                return name.replace(f".layers.{mine}.", f".layers.{other}.")
        return name

    return {there(name): tensor for name, tensor in weights.items()}


def opened(*folders: str) -> dict[str, Checkpoint]:
    return {folder: open_checkpoint(folder) for folder in folders}


def test_two_swapped_layers_are_put_back(changed: Make) -> None:
    damaged = changed("damaged", swapped)
    made = space(Family(BASE, (damaged,), 6, (), "bfloat16"))
    recipe = made.decode(point(made, {"from": "damaged", "move.layer_1": 3, "move.layer_4": -3}))
    mended = dict(merge(plan(recipe, opened(BASE, damaged))))
    want = load_file(Path(SORT) / "model.safetensors")
    assert mended.keys() == want.keys()
    assert all(torch.equal(mended[name], tensor) for name, tensor in want.items())


@pytest.mark.parametrize(
    ("changes", "depth"),
    [
        ({"times.layer_3": 0, "times.layer_1": 0}, 4),
        ({"times.layer_2": 2, "scale": 0.5, "from.layer_5": "sort"}, 7),
        ({"from.layer_0": "sort", "move.layer_2": 2}, 6),
    ],
)
def test_passthrough_in_memory_is_what_is_written(changes: dict[str, Value], depth: int, tmp_path: Path) -> None:
    made = space(Family(BASE, (SORT,), 6, (), "bfloat16"))
    planned = plan(made.decode(point(made, changes)), opened(BASE, SORT))
    write_checkpoint(planned, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    in_memory = dict(merge(planned))
    assert stored.keys() == in_memory.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in in_memory.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == depth
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.layers) == depth


def test_a_later_pass_adds_its_scale_times_what_the_layer_adds(tmp_path: Path) -> None:
    made = space(Family(BASE, (SORT,), 6, (), "float32"))
    tokens = torch.arange(3, 12)[None]

    def logits(**changes: Value) -> torch.Tensor:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_checkpoint(plan(made.decode(point(made, changes)), opened(BASE, SORT)), folder)
        with torch.no_grad():
            answer: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
        return answer

    once = logits()
    assert torch.allclose(logits(times__layer_5=2, scale=0.0), once, atol=1e-5)
    little, more = (float((logits(times__layer_5=2, scale=scale) - once).norm()) for scale in (0.001, 0.002))
    assert more == pytest.approx(2 * little, rel=0.05)
