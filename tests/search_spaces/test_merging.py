"""Differential: spaces that differ only in how finely depth is cut merge alike where their genes agree."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from engine.architecture import layer_count, outer_names
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.merge import merge
from engine.methods import METHODS
from engine.plan import plan
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.depth import Family
from search_spaces.gene import Value
from search_spaces.space import SearchSpace, search_space

MODELS = Path(__file__).parents[2] / "tasks" / "demo" / "models"
BASE, REVERSE, SORT = (str(MODELS / name) for name in ("base", "reverse", "sort"))
FINER = [("blocks", 4), ("per_layer", 0), ("smooth", 2), ("smooth", 4)]


@lru_cache
def opened() -> dict[str, Checkpoint]:
    return {name: open_checkpoint(name) for name in (BASE, REVERSE, SORT)}


def space(method: str, kind: str, count: int) -> SearchSpace:
    names = tuple(opened()[BASE].tensors)
    # float32: a difference in the last bit of a parameter would show
    family = Family(BASE, (REVERSE, SORT), layer_count(names), tuple(outer_names(names)), "float32")
    return search_space(Spec(family, (method,), SPACES[kind], count, ("mlp",), {}, seed=3))


def without_position(name: str) -> str:
    *parts, last = name.split(".")
    return ".".join(parts) if last.startswith(("layers_", "layer_", "knot_")) else name


def merged(made: SearchSpace, values: dict[str, Value]) -> dict[str, torch.Tensor]:
    point = [gene.to_unit(values[without_position(gene.name)]) for gene in made.genes]
    return dict(merge(plan(made.decode(point), opened())))


@pytest.mark.parametrize("method", METHODS)
def test_equal_values_over_depth_merge_to_the_bits_of_one_block(method: str) -> None:
    one = space(method, "blocks", 1)
    draw = random.Random(method)
    values = one.named([draw.random() for _ in one.genes])
    want = merged(one, values)
    for kind, count in FINER:
        finer = space(method, kind, count)
        assert len(finer.genes) > len(one.genes) or not any(gene.choices == () for gene in one.genes)
        got = merged(finer, values)
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            assert torch.equal(got[name], tensor), f"{kind} {count}: {name}"


def test_other_values_in_one_block_change_its_layers_only() -> None:
    """The comparison above would notice: one value of one block moved changes that block, and nothing else."""
    made = space("task_arithmetic", "blocks", 3)
    same = [0.5] * len(made.genes)
    moved = [0.6 if gene.name == "weight.sort.mlp.layers_2_3" else 0.5 for gene in made.genes]
    first, second = (dict(merge(plan(made.decode(point), opened()))) for point in (same, moved))
    differing = {name for name in first if not torch.equal(first[name], second[name])}
    parts = ("gate_proj", "up_proj", "down_proj")
    assert differing == {f"model.layers.{layer}.mlp.{part}.weight" for layer in (2, 3) for part in parts}
