"""Floors are constraints in the metric's own units: kept, missed, or not to be told."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.statistics.floors import check, violation
from evolve.statistics.paired import Difference

PARTS = st.dictionaries(st.sampled_from("abc"), st.floats(-5, 5), min_size=3)


def test_only_what_lies_below_the_floor_counts_and_it_adds_up() -> None:
    base = {"a": 0.7, "b": 0.5, "c": 0.9}
    floors = {"a": 0.05, "b": 0.0}
    assert violation({"a": 0.65, "b": 0.5, "c": 0.0}, base, floors) == 0.0, "c has no floor; .70 - .05 keeps"
    assert violation({"a": 0.6, "b": 0.48, "c": 1.0}, base, floors) == pytest.approx(0.05 + 0.02)
    assert violation({"a": 0.6, "b": 0.9, "c": 1.0}, base, floors) == pytest.approx(0.05), "one does not pay another"
    assert violation({"a": 0.0, "b": 0.0, "c": 0.0}, base, {}) == 0.0


@given(PARTS, st.dictionaries(st.sampled_from("abc"), st.floats(0, 1)))
def test_the_base_keeps_its_own_floors(parts: dict[str, float], floors: dict[str, float]) -> None:
    assert violation(parts, parts, floors) == 0.0


def test_no_number_misses_a_floor_infinitely() -> None:
    for value in (math.nan, -math.inf):
        assert violation({"a": value}, {"a": 0.5}, {"a": 0.1}) == math.inf


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.02, 0.01, "kept"),
        (-0.03, 0.01, "kept"),
        (-0.04, 0.01, "cannot be told"),
        (-0.09, -0.03, "cannot be told"),
        (-0.09, -0.04, "missed"),
        (0.1, 0.2, "kept"),
    ],
)
def test_the_interval_says_whether_a_floor_is_kept(low: float, high: float, said: str) -> None:
    assert check("a", 0.03, Difference((low + high) / 2, low, high)).verdict == said
