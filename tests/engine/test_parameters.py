from __future__ import annotations

from typing import Any

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


@given(st.floats(-5, 5), st.integers(2, 6), st.floats(0, 1))
def test_equal_knots_give_their_value_to_the_last_bit(value: float, count: int, position: float) -> None:
    assert interpolate([value] * count, position) == value
