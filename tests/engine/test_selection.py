from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.methods.selection import (
    SORT_BELOW,
    below_largest,
    kth_largest,
    largest,
    order_statistics,
    ranks,
)

magnitudes = st.lists(st.sampled_from([0.0, 1.0, 0.5, 2.0, 3.25, 1e-40]), min_size=1, max_size=60)


def repeated(values: list[float], large: bool) -> np.ndarray:
    return np.tile(np.array(values, dtype=np.float32), -(-SORT_BELOW // len(values)) if large else 1)


@settings(deadline=None)
@given(magnitudes, st.floats(0.0, 1.0), st.booleans())
def test_exactly_the_k_largest(values: list[float], share: float, large: bool) -> None:
    array = repeated(values, large)
    k = int(share * array.size)
    mask = largest(torch.from_numpy(array), k).numpy()
    assert mask.sum() == k
    wanted = np.argsort(-array, kind="stable")[:k]  # of equal ones the first
    if large:
        assert np.array_equal(np.flatnonzero(mask), np.sort(wanted))
    else:  # of equal ones those that torch's sort puts first
        assert np.array_equal(np.sort(array[mask]), np.sort(array[wanted]))


@settings(deadline=None)
@given(magnitudes, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans())
def test_a_band_lies_below_the_largest(values: list[float], share: float, skipped: float, large: bool) -> None:
    array = repeated(values, large)
    k = int(share * array.size)
    top = int(skipped * (array.size - k))
    mask = below_largest(torch.from_numpy(array), top, k).numpy()
    wanted = np.argsort(-array, kind="stable")[top : top + k]
    assert np.array_equal(np.sort(array[mask]), np.sort(array[wanted]))
    if large:
        assert np.array_equal(np.flatnonzero(mask), np.sort(wanted))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kth_largest_is_that_of_a_sort(dtype: type) -> None:
    values = np.abs(np.random.default_rng(0).normal(size=10_000)).astype(dtype)
    descending = np.sort(values)[::-1]
    for k in (1, 2, 5_000, 9_999, 10_000):
        assert kth_largest(values, k) == descending[k - 1]


def test_ranks_count_along_dimension_one_and_the_earlier_of_equals_is_higher() -> None:
    assert ranks(torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 0.0]])).tolist() == [[2, 0, 1], [2, 1, 0]]
    values = torch.rand(3, 4, 5)
    assert torch.equal(ranks(values), values.argsort(1).argsort(1))


def test_order_statistics_are_those_of_a_sort() -> None:
    values = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    ordered = values.flatten().sort().values.tolist()
    assert order_statistics(values, [0, 19, 38, 76]) == [ordered[place] for place in (0, 19, 38, 76)]
