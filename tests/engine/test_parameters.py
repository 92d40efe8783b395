from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.parameters import check_setting, evaluate, first_value, gradient_position, interpolate

numbers = st.floats(-10, 10)


@given(st.lists(numbers, min_size=1, max_size=6), st.integers(1, 12))
def test_gradient_stays_within_and_meets_its_ends(values: list[float], layers: int) -> None:
    got = [interpolate(list(values), gradient_position(layer, layers)) for layer in range(layers)]
    assert min(values) - 1e-9 <= min(got)
    assert max(got) <= max(values) + 1e-9
    assert got[-1] == pytest.approx(values[-1])
    if layers > 1:
        assert got[0] == pytest.approx(values[0])
    assert interpolate(list(values), gradient_position(None, layers)) == values[0]


@given(numbers, st.floats(0, 1))
def test_scalar_and_constant_gradient_agree(value: float, position: float) -> None:
    assert interpolate(value, position) == value
    assert interpolate([value, value], position) == pytest.approx(value)


def test_booleans_step() -> None:
    assert [interpolate([True, False], p) for p in (0.0, 0.5, 1.0)] == [True, True, False]


@given(st.lists(st.tuples(st.sampled_from(["attn", "mlp", "up", "*"]), numbers), min_size=1, max_size=4))
def test_first_matching_filter_wins(pairs: list[tuple[str, float]]) -> None:
    setting = check_setting([{"filter": f, "value": v} for f, v in pairs])
    for name in ("layers.0.attn.q", "layers.0.mlp.up", "norm"):
        matching = [v for f, v in pairs if f == "*" or f in name]
        assert evaluate(setting, name, 0.0) == (matching[0] if matching else None)


def test_precedence_and_falling_through() -> None:
    source: dict[str, Any] = {"weight": [{"filter": "mlp", "value": 1.0}]}
    levels = (source, {"weight": 2.0}, {"weight": 3.0, "density": 0.5})
    assert first_value(levels, "weight", "mlp.up", 0.0) == 1.0
    assert first_value(levels, "weight", "norm", 0.0) == 2.0
    assert first_value(levels, "density", "norm", 0.0) == 0.5
    assert first_value(levels, "lambda", "norm", 0.0) is None


def test_mixed_list_and_text_numbers() -> None:
    assert check_setting([{"filter": "mlp", "value": "1e-5"}, 0.5]) == [
        {"filter": "mlp", "value": 1e-5},
        {"value": 0.5},
    ]


@pytest.mark.parametrize("bad", ["x", [], [[1]], {"filter": "a"}, {"value": 1, "z": 2}, float("nan"), "inf", None])
def test_malformed_settings(bad: Any) -> None:
    with pytest.raises(ValueError):
        check_setting(bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (10**400, "is not finite"),
        (-(1 << 20_000), "is not finite"),
        ("x" * 1000, "is not a number"),
        ({"value": [{"a": "x" * 1000}]}, "is not a number"),
        ({"filter": "x" * 1000}, "is no filter"),
        ({"filter": ["mlp"], "value": 1}, r"the filter \['mlp'\] is no text"),
        ([{"filter": 0, "value": 1}, 2], "the filter 0 is no text"),
    ],
    ids=lambda _: "",
)
def test_long_and_odd_values_are_told_in_a_line(bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_setting(bad)
    assert len(str(caught.value)) < 200


@given(st.floats(-5, 5), st.integers(2, 6), st.floats(0, 1))
def test_equal_knots_give_their_value_to_the_last_bit(value: float, count: int, position: float) -> None:
    assert interpolate([value] * count, position) == value


scalars = st.one_of(numbers, st.integers(-5, 5), st.booleans())
values = st.one_of(scalars, st.lists(numbers, min_size=1, max_size=5), st.lists(st.booleans(), min_size=1, max_size=4))
filtered = st.builds(
    lambda filter_, value: {"value": value} | ({} if filter_ is None else {"filter": filter_}),
    st.sampled_from([None, "*", "attn", "mlp", "layers.1", "norm"]),
    values,
)
settings = st.one_of(values, filtered, st.lists(filtered, min_size=1, max_size=4))
NAMES = (
    "model.embed_tokens.weight",
    "model.layers.1.attn.q.weight",
    "model.layers.3.mlp.up.weight",
    "model.norm.weight",
)


def stated(setting: Any, name: str, layer: int | None, layers: int) -> Any:
    """The rule as mergekit's documentation states it, in other words than the code: (found, value)."""
    if isinstance(setting, dict):
        setting = [setting]
    if isinstance(setting, list) and isinstance(setting[0], dict):
        matches = [item["value"] for item in setting if item.get("filter") in (None, "*") or item["filter"] in name]
        if not matches:
            return None
        setting = matches[0]
    if not isinstance(setting, list):
        return setting
    t = 0.0 if layer is None else 1.0 if layers == 1 else layer / (layers - 1)
    if isinstance(setting[0], bool):
        return setting[int(t * (len(setting) - 1))]
    return float(np.interp(t, np.linspace(0, 1, len(setting)), setting)) if len(setting) > 1 else setting[0]


@given(st.lists(st.one_of(st.none(), settings), max_size=4), st.sampled_from(NAMES), st.integers(1, 7), st.data())
def test_the_stated_rule(levels: list[Any], name: str, layers: int, data: st.DataObject) -> None:
    layer = data.draw(st.one_of(st.none(), st.integers(0, layers - 1)))
    mappings = [{} if level is None else {"weight": check_setting(level)} for level in levels]
    got = first_value(mappings, "weight", name, gradient_position(layer, layers))
    found = [
        value for level in levels if level is not None and (value := stated(level, name, layer, layers)) is not None
    ]
    if not found:
        assert got is None
    elif isinstance(found[0], bool):
        assert got is found[0]
    else:
        assert got == pytest.approx(found[0], abs=1e-9)


def test_words_for_truth() -> None:
    assert check_setting(["true", "False", True]) == [True, False, True]
