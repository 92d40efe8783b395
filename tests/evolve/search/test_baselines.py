"""What a search has to beat is named without collisions."""

from __future__ import annotations

import pytest

from evolve.search.baselines import model_recipes, opening_merge, plain_merges, start_name
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Bounds, Fixed, Range
from search_spaces.depth import Family
from search_spaces.layer_order import LayerOrder
from search_spaces.space import search_space


def test_no_model_hides_another_row() -> None:
    family = Family("org/llama", ("exp/base", "runs/winner", "a/uniform average", "b/math"), 2, (), "float32")
    rows = {**model_recipes(family), **plain_merges(family)}
    assert list(rows) == [
        "base",
        "source base",
        "source winner",
        "source uniform average",
        "math",
        "uniform average",
        "task arithmetic, weight 0.3",
        "TIES, density 0.2",
        "DARE, density 0.1",
    ]
    assert rows["base"].references == ("org/llama",)
    assert rows["source base"].references == ("exp/base",)


def test_the_uniform_average_leaves_the_base_out() -> None:
    merges = plain_merges(Family("b", ("x", "y"), 2, (), "bfloat16"))
    assert merges["uniform average"].references == ("x", "y")
    assert merges["TIES, density 0.2"].references == ("b", "x", "y")


@pytest.mark.parametrize(
    ("method", "bounds", "average"),
    [
        ("task_arithmetic", {}, True),
        ("linear", {}, True),
        ("ties", {}, False),
        ("task_arithmetic", {"weight": Range(0.5, 1.0)}, False),
        ("task_arithmetic", {"lambda": Fixed(2.0)}, False),
    ],
)
def test_a_winner_that_was_there_from_the_beginning_is_known(
    method: str, bounds: dict[str, Bounds], average: bool
) -> None:
    family = Family("b", ("x", "y", "z"), 2, (), "float32")
    space = search_space(
        Spec(family=family, methods=(method,), depth=SPACES["blocks"], count=1, modules=(), bounds=bounds, seed=0)
    )
    text = opening_merge(space, space.decode(space.start[0]))
    assert text == f"{method} with one weight for all sources" + ", which is the uniform average" * average
    others = [opening_merge(space, space.decode(point)) for point in space.start[1:]]
    assert others or method in ("linear", "ties"), "where weights are divided by their sum there is one start"
    assert not any("average" in other for other in others)
    assert opening_merge(space, space.decode((0.123,) * len(space.genes))) == ""


def test_a_start_whose_layers_are_moved_is_named_by_its_edits() -> None:
    family = Family("org/base", ("org/a", "org/b"), 3, (), "bfloat16")
    spec = Spec(family, ("passthrough",), SPACES["blocks"], 1, (), {}, seed=0, order=LayerOrder())
    space = search_space(spec)
    names = [start_name(space, point) for point in space.start]
    assert names[1] == "layers of a"
    assert "layers of b, move.layer_0 1" in names
    assert opening_merge(space, space.decode(space.start[2])) == "layers of b"


def test_a_scale_is_part_of_a_starts_name_and_no_uniform_average() -> None:
    family = Family("org/base", ("org/a", "org/b"), 3, (), "bfloat16")
    spec = Spec(family, ("ties",), SPACES["blocks"], 1, (), {}, seed=0, scale=Range(0.3, 2.5))
    space = search_space(spec)
    names = [start_name(space, point) for point in space.start]
    assert names[0] == "ties, weight 0.5"
    assert "ties, weight 0.5, scale 0.6" in names
    assert len(set(names)) == len(names)
