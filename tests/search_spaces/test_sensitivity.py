"""Slopes of the genes are those of the tensors, by the way in which recipes are made of genes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.architecture import layer_count, outer_names
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.plan import plan
from search_spaces import SPACES
from search_spaces.assemble import SCALE, Spec
from search_spaces.depth import Family
from search_spaces.sensitivity import Sensitivity, has_slope, one_by_one
from search_spaces.space import SearchSpace, search_space

DEMO = Path(__file__).parents[2] / "tasks" / "demo" / "models"
BASE, *SOURCES = (str(DEMO / name) for name in ("base", "reverse", "sort"))
STEP = 0.1


@pytest.fixture(scope="module")
def models() -> dict[str, Checkpoint]:
    return {name: open_checkpoint(name) for name in (BASE, *SOURCES)}


def space_of(models: Mapping[str, Checkpoint], kind: str, count: int, method: str, **more: Any) -> SearchSpace:
    names = tuple(models[BASE].tensors)
    family = Family(BASE, tuple(SOURCES), layer_count(names), tuple(outer_names(names)), "bfloat16")
    return search_space(Spec(family, (method,), SPACES[kind], count, ("self_attn", "mlp"), {}, 0, **more))


def value(space: SearchSpace, models: Mapping[str, Checkpoint], point: tuple[float, ...], by: Any) -> float:
    """What `by` are the slopes of: a sum over all weights of a plan."""
    total = 0.0
    for job in plan(space.decode(point), models).jobs:
        for parameter, slopes in by[job.name].items():
            numbers = job.parameters[parameter]
            numbers = numbers if isinstance(numbers, tuple) else (numbers,)
            total += sum(slope * number for slope, number in zip(slopes, numbers, strict=True))
    return total


@pytest.mark.parametrize(
    ("kind", "count", "method", "more"),
    [
        ("blocks", 1, "task_arithmetic", {}),
        ("blocks", 4, "ties", {"scale": SCALE}),
        ("per_layer", 0, "task_arithmetic", {"negative": True, "scale": SCALE}),
        ("smooth", 3, "dare_ties", {}),
        ("smooth", 4, "linear", {"subset": True}),
        ("blocks", 3, "slerp", {}),
    ],
)
def test_slopes_are_the_differences(
    models: dict[str, Checkpoint], kind: str, count: int, method: str, more: dict[str, Any]
) -> None:
    space = space_of(models, kind, count, method, **more)
    drawn = random.Random(1)
    point = tuple(0.5 if gene.choices else drawn.uniform(0.2, 0.8) for gene in space.genes)
    jobs = plan(space.decode(point), models).jobs
    by = {
        job.name: {
            name: tuple(drawn.gauss(0, 1) for _ in range(len(number) if isinstance(number, tuple) else 1))
            for name, number in job.parameters.items()
            if name in ("weight", "lambda", "t")
        }
        for job in jobs
    }
    found = Sensitivity(space, models).gradient(point, by)
    assert len(found) == len(space.genes)
    for index, gene in enumerate(space.genes):
        if not has_slope(gene):
            assert found[index] == 0
            continue
        ends = [tuple(x + sign * STEP * (i == index) for i, x in enumerate(point)) for sign in (1, -1)]
        difference = value(space, models, ends[0], by) - value(space, models, ends[1], by)
        assert found[index] == pytest.approx(difference / (2 * STEP), abs=2e-1 if kind == "smooth" else 1e-1, rel=5e-3)
    assert any(found)


def test_any_linear_map_is_read_gene_by_gene() -> None:
    def numbers(values: Mapping[int, float]) -> dict[tuple[str, str, int], float]:
        return {("a", "weight", 0): 3 * values.get(0, 0) - 2 * values.get(1, 0) + 5, ("b", "t", 0): values.get(1, 0)}

    assert one_by_one([0, 1], numbers) == {("a", "weight", 0): {0: 3, 1: -2}, ("b", "t", 0): {1: 1}}
