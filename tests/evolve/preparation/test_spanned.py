"""The space of a search.yaml: the usual one, and what is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolve.config.search_yaml import SearchConfig
from evolve.errors import ConfigError
from evolve.preparation.setting import Setting
from search_spaces.space import SearchSpace

MODELS = Path(__file__).parents[3] / "tasks" / "demo" / "models"


def spanned(*sources: str, **space: Any) -> SearchSpace:
    config = SearchConfig.model_validate(
        {
            "name": "r",
            "models": {"base": str(MODELS / "base"), "sources": [str(MODELS / name) for name in sources]},
            "space": space,
            "score": {"tasks": [{"task": "t", "metric": "acc"}]},
        }
    )
    return Setting(config).space


def test_the_usual_space_is_task_arithmetic_with_weights_for_every_layer() -> None:
    space = spanned("sort", "reverse")
    assert space.spec.methods == ("task_arithmetic",)
    assert len(space.genes) == 2 * (6 * 3 + 1)


def test_scale_takes_a_range_of_its_own() -> None:
    usual, own = (spanned("sort", "reverse", scale=value).genes for value in (True, {"low": 0.5, "high": 4}))
    assert [(gene.low, gene.high) for each in (usual, own) for gene in each if gene.name == "scale"] == [
        (0.3, 2.5),
        (0.5, 4.0),
    ]


def test_the_order_of_layers_is_a_space_of_its_own() -> None:
    space = spanned("sort", order=True)
    assert len(space.genes) == 3 * 6 + 2
    assert {gene.parameter for gene in space.genes} == {"from", "times", "move", "scale"}
    plain = spanned("sort", order={"repeats": 1, "move": 0, "rounds": 1})
    assert {gene.parameter for gene in plain.genes} == {"from", "times"}
    assert {gene.high for gene in plain.genes if gene.parameter == "times"} == {1}


def test_an_order_has_no_methods_and_no_parameters() -> None:
    with pytest.raises(
        ValueError, match="order lays out whole layers as they are, and has no layers, scale; leave one"
    ):
        spanned("sort", order=True, layers=2, scale=True)


@pytest.mark.parametrize(
    ("space", "sources", "message"),
    [
        ({"method": "linear", "scale": True}, ("sort",), "space.scale: linear merges no task vectors; "),
        ({"method": ["slerp"], "negative": True}, ("sort",), "space.negative: slerp merges no task vectors; "),
        (
            {"negative": True, "parameters": {"weight": {"low": 0.0, "high": 1.0}}},
            ("sort",),
            "space.negative: weights go below 0, and space.parameters.weight.low (0) says that they do not; ",
        ),
        (
            {"scale": True, "parameters": {"lambda": 2.0}},
            ("sort",),
            "space.scale: is lambda in recipes, which space.parameters sets as well; ",
        ),
        ({"subset": True}, ("sort",), "space.subset: there is one source only"),
        ({"method": "slerp", "subset": True}, ("sort", "pick"), "space.subset: slerp takes a fixed number of models"),
        (
            {"method": "karcher", "parameters": {"max_iter": {"low": 1.5, "high": 3}}},
            ("sort",),
            "space.parameters.max_iter: max_iter is 1.5; give a whole number",
        ),
        ({"parameters": {"weight": 0.5}, "layers": 1}, ("sort",), "space: nothing is left to search"),
    ],
)
def test_what_the_models_or_methods_do_not_bear(space: dict[str, Any], sources: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        spanned(*sources, **space)
    assert str(raised.value).startswith(message)
