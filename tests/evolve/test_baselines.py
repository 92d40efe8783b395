"""What a search has to beat is named without collisions."""

from __future__ import annotations

from evolve.baselines import model_recipes, plain_merges
from search_spaces.depth import Family


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
    ]
    assert rows["base"].references == ("org/llama",)
    assert rows["source base"].references == ("exp/base",)


def test_the_uniform_average_leaves_the_base_out() -> None:
    merges = plain_merges(Family("b", ("x", "y"), 2, (), "bfloat16"))
    assert merges["uniform average"].references == ("x", "y")
    assert merges["TIES, density 0.2"].references == ("b", "x", "y")
