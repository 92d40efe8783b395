"""The parts of the kernels: order statistics, ranks, draws and words, against slow and plain ways to get them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import engine.kernels.magnitudes
from engine.kernels.magnitudes import ALL, NONE, Cut, Magnitudes, Values, count, cut_at
from engine.kernels.ranks import KEPT, mark, mark_all, rank_rows
from engine.kernels.scaling import exact_scale, unscaled
from engine.kernels.task_vectors import l1_sums, sum_kept
from engine.kernels.weighted_sum import LANES, add_products, sum_inputs, total
from engine.methods.della import probability
from engine.methods.draws import LOW, TWO32, keep, upper_word
from engine.methods.draws import words as drawn_words
from engine.methods.selection import ranks
from engine.operands import between, widened

Array = Any
TINY = float(np.float32(1e-45))
ZERO_BASE = np.zeros(1 << 17, np.float32)


def one_by_one(function: Callable[[int, int], Any], pieces: Sequence[tuple[int, int]]) -> list[Any]:
    return [function(*piece) for piece in pieces]


def values_of(base: Array | None, x: Array, step: int) -> Values:
    pieces = [(begin, min(begin + step, len(x))) for begin in range(0, len(x), step)]
    return Values(lambda b, e: (None if base is None else base[b:e], x[b:e]), pieces, one_by_one)


def largest(magnitudes: Array, k: int) -> Array:
    """The mask of the k largest, of equal ones the first: by a stable sort."""
    mask = np.zeros(len(magnitudes), bool)
    mask[np.argsort(-magnitudes, kind="stable")[:k]] = True
    return mask


def kept_by(cut: Cut, magnitudes: Array) -> Array:
    before, behind = cut.least(cut.position - 1), cut.least(cut.position)
    return magnitudes >= np.where(np.arange(len(magnitudes)) < cut.position, before, behind)


def check_cuts(base: Array | None, x: Array, step: int, ks: Sequence[int]) -> Magnitudes:
    magnitudes = np.abs(widened(x) - (0 if base is None else widened(base)))
    values = values_of(base, x, step)
    table = count(values)
    for k in ks:
        got, want = kept_by(table.cut(k, values), magnitudes), largest(magnitudes, k)
        # Zeros add nothing, kept or not. Of infinities all may be kept: the result has to show them.
        free = (magnitudes == 0) | np.isinf(magnitudes)
        assert np.array_equal(got | free, want | free)
        assert got[want & np.isinf(magnitudes)].all()
    return table


numbers = st.lists(
    st.one_of(
        st.sampled_from([0.0, -0.0, TINY, -TINY, 2 * TINY, 1e-40, 0.5, -0.5, 0.50000006, 1.0, -1.0, 3e38, np.inf]),
        st.floats(width=32, allow_nan=False),
        st.floats(min_value=2.0, max_value=2.0009765625, width=32),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(numbers, st.integers(1, 100), st.integers(1, 60))
@example([0.0] * 5, 5, 3)
@example([1.0] * 50, 7, 20)
@example([TINY, 0.0, -TINY, TINY], 2, 2)
def test_a_cut_keeps_what_a_stable_sort_puts_first(numbers: list[float], step: int, k: int) -> None:
    x = np.array(numbers, np.float32)
    check_cuts(None, x, step, [min(k, len(x))])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 1e-3, 1e-12, 1e6]), st.booleans(), st.integers(1500, 7000))
def test_a_cut_in_buckets_is_as_exact(seed: int, scale: float, ties: bool, step: int) -> None:
    """More distinct magnitudes than are counted one by one, some of them far outside of the buckets."""
    generator = np.random.default_rng(seed)
    x = (scale * generator.standard_normal(6000)).astype(np.float32)
    base = (0.1 * scale * generator.standard_normal(6000)).astype(np.float32)
    if ties:
        x[generator.random(6000) < 0.5] = np.float32(scale)
        base[x == np.float32(scale)] = 0
        x[:3], base[:3] = [np.inf, TINY, 0], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.kernels.magnitudes, "SLOTS", 2048)
        assert check_cuts(base, x, step, [1, 2, 17, 2999, 3000, 3001, 5998, 6000]).buckets


def test_magnitudes_of_bfloat16_words_are_those_of_the_numbers() -> None:
    torch.manual_seed(0)
    base, x = torch.randn(3000).bfloat16(), torch.randn(3000).bfloat16()
    stored = [t.view(torch.uint16).numpy() for t in (base, x)]
    assert not check_cuts(*stored, 1000, [1, 500, 2999]).buckets


def test_all_and_none() -> None:
    magnitudes = np.array([0.0, TINY, 3e38], np.float32)
    assert kept_by(ALL, magnitudes).all()
    assert not kept_by(NONE, magnitudes).any()


@settings(max_examples=60, deadline=None)
@given(st.floats(min_value=0, width=32), st.integers(0, 2**31))
def test_scaling_loses_nothing(top: float, seed: int) -> None:
    scale = exact_scale(top)
    assert scale >= 1
    x = np.append((np.random.default_rng(seed).random(50) * min(top, 1e38)).astype(np.float32), np.float32(TINY))
    x = x[x <= top]
    with np.errstate(over="raise"):
        scaled = x * scale
    assert np.array_equal(scaled.astype(np.float64), x.astype(np.float64) * float(scale))
    for each, wide in zip(x, scaled, strict=True):
        assert np.float32(unscaled(cut_at(float(wide), 3), scale).magnitude) == each


@pytest.mark.parametrize("row", [1, 2, 5, 63, 64, 1000, 1024, 5000, 70_000])
@pytest.mark.parametrize("kind", ["normal", "bfloat16", "ties", "constant", "mostly zero"])
def test_ranks_are_those_of_the_reference(row: int, kind: str) -> None:
    rows = 3 if row > 1000 else 7
    generator = np.random.default_rng(row)
    base, x = generator.standard_normal((2, rows * row)).astype(np.float32)
    if kind == "ties":
        base, x = np.round(base), np.round(2 * x)
    elif kind == "constant":
        base, x = np.zeros_like(base), np.full_like(x, -0.3)
    elif kind == "mostly zero":
        x = np.where(generator.random(len(x)) < 0.9, base, x)
    stored = [base, x]
    if kind == "bfloat16":
        stored = [torch.from_numpy(t).bfloat16().view(torch.uint16).numpy() for t in stored]
        base, x = map(widened, stored)
    got = np.empty(len(x), np.uint32)
    rank_rows(*stored, row, got)
    want = ranks(torch.from_numpy(np.abs(x - base)).view(rows, row)).flatten().numpy()
    assert np.array_equal(got, want)


def test_ranks_of_extremes() -> None:
    x = np.array([0.0, TINY, -3e38, 1.0, TINY, -0.0, np.inf, np.nan, -np.inf, -1.0, 2e-38], np.float32)
    got = np.empty(len(x), np.uint32)
    rank_rows(ZERO_BASE[: len(x)], x, len(x), got)
    assert got.tolist() == [1, 3, 7, 6, 2, 0, KEPT, KEPT, KEPT, 5, 4]


POSITIONS = [0, 5, (1 << 32) - 40, 1 << 32, (7 << 32) - 1000, (1 << 41) + 12345]
KEYS = [0, 1, 0x9E3779B97F4A7C15, (1 << 64) - 1]


@pytest.mark.parametrize("start", POSITIONS)
@pytest.mark.parametrize("key", KEYS)
def test_draws_of_loops_are_those_of_the_reference(key: int, start: int) -> None:
    """At any position: what is beyond 2^32 elements is drawn in parts that end there."""
    n, share, bound = 1500, 0.37, int(np.ceil(0.37 * TWO32)) - 1
    ones, out, masks = np.ones(n, np.float32), np.empty(n, np.float32), np.zeros(n, np.uint8)
    ranked = np.arange(n, dtype=np.uint32)[::-1].copy()
    line = probability(n, 0.5, 0.3)
    for first, last in between(start, start + n, [((start >> 32) + 1) << 32]):
        own, low = slice(first - start, last - start), np.uint32(first & LOW)
        upper = np.uint32(upper_word(key, first))
        rules = ((np.uint32(key & LOW), upper, np.uint32(bound)),)
        sum_kept(ZERO_BASE[: last - first], (ones[own],), (np.float32(1),), rules, low, out[own])
        mark(ranked[own], line, (np.uint32(key & LOW), upper, low), masks[own], np.uint8(4))
    drawn = drawn_words(key, start, n, torch.device("cpu"))
    assert np.array_equal(out == 1, (drawn < share * TWO32).numpy())
    chance = torch.from_numpy(ranked.astype(np.float64)).mul_(line[0]).div_(line[1]).add_(line[2])
    assert np.array_equal(masks, np.where(keep(key, start, chance).numpy(), 4, 0))


def test_marks_join_those_that_are_there_and_keep_what_is_not_finite() -> None:
    masks = np.array([0, 3, 128], np.uint8)
    mark_all(masks, np.uint8(2))
    assert masks.tolist() == [2, 3, 130]
    never = (0.0, 1.0, 0.0)
    words = (np.uint32(1), np.uint32(2), np.uint32(3))
    mark(np.array([0, KEPT, 1], np.uint32), never, words, masks, np.uint8(4))
    assert masks.tolist() == [2, 7, 130]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@example([0x7F7F7FFF, 0x7F7F8000, 0x7F800000, 0x00008000, 0x00018000, 0x80000000, 0x7FC00000, 0xFF800000])
def test_words_round_as_torch_does(patterns: list[int]) -> None:
    x = np.array(patterns, np.uint32).view(np.float32)
    out = np.empty(len(x), np.uint16)
    finite = sum_inputs((x,), (np.float32(1),), out)
    want = (torch.from_numpy(x) * 1.0).bfloat16()
    assert finite == bool(torch.isfinite(want).all())
    numbers = ~torch.isnan(want).numpy()
    assert np.array_equal(out[numbers], want.view(torch.uint16).numpy()[numbers])


@pytest.mark.parametrize("n", [0, 1, LANES - 1, LANES, 1023, 1024, 1025, 5000])
def test_sums_take_every_element(n: int) -> None:
    generator = np.random.default_rng(n)
    base, x, y = generator.integers(-50, 50, (3, n)).astype(np.float32)  # whole numbers: sums are exact
    assert total(x) == x.sum(dtype=np.float64)
    gram = np.zeros((2, 2))
    add_products(base, (x, y), gram)
    deltas = np.stack([x - base, y - base]).astype(np.float64)
    assert np.array_equal(gram, np.triu(deltas @ deltas.T))
    every, some = l1_sums(base, x, ((np.float32(20),),), np.uint32(0))
    sizes = np.abs(x - base).astype(np.float64)
    assert (every, some) == (sizes.sum(), sizes[sizes >= 20].sum())
