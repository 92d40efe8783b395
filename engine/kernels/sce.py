"""SCE in two passes, and two or three more that select where the models vary most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from engine.kernels.kernel import Merge, floats
from engine.kernels.magnitudes import ALL, NONE, Cut, Values, count
from engine.kernels.scaling import exact_scale, unscaled
from engine.kernels.weighted_sum import total
from engine.kernels.words import BLOCK, SIGN, bits, compiled, finite, load, part, real, store
from engine.methods.method import Array, Rng
from engine.methods.sce import shares
from engine.methods.selection import SORT_BELOW
from engine.operands import Operands, between

ZERO = np.float32(0.0)
LEAST = np.float32(1e-6)


def sce(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Merge | None:
    """Select, weigh, and return how a piece is merged; see `engine.methods.sce`."""
    selecting = p["select_topk"] < 1.0
    if selecting and operands.size < SORT_BELOW:
        return None  # equal variances are ranked in another way there
    cut = _cut(operands, p["select_topk"]) if selecting else ALL

    def parts(begin: int, end: int) -> Iterator[tuple[slice, Array | None, Any]]:
        """Yield parts of a piece, their variances and the least of those that are selected, or None for all."""
        variances = _variances(operands, begin, end) if selecting else None
        for first, last in between(begin, end, [cut.position]):
            own = slice(first - begin, last - begin)
            yield own, None if variances is None else variances[own], cut.least(first)

    def squares() -> Array:
        def of(begin: int, end: int) -> Array:
            base, xs = operands.base_words(begin, end), operands.words(begin, end)
            sums = np.zeros(len(xs))
            for own, variances, least in parts(begin, end):
                for i, x in enumerate(xs):
                    sums[i] += sum_squares(base[own], x[own], variances, least)
            return sums

        return np.asarray(np.sum(operands.map(of), axis=0))

    members = [operands.base, *operands.inputs]
    found = squares() if selecting else operands.once("squares of deltas", members, squares)
    w = floats(shares([float(square) / operands.size for square in found]))

    def merge(begin: int, end: int, out: Array) -> bool:
        base, xs = operands.base_words(begin, end), operands.words(begin, end)
        whole = True
        for own, variances, least in parts(begin, end):
            whole &= average_agreeing(base[own], tuple(x[own] for x in xs), w, variances, least, out[own])
        return bool(whole)

    return merge


def _variances(operands: Operands, begin: int, end: int) -> Array:
    variances = np.empty(end - begin, np.float32)
    fill_variances(operands.base_words(begin, end), operands.words(begin, end), variances)
    return variances


def _cut(operands: Operands, share: float) -> Cut:
    """Return where the given share of those elements ends that vary at all."""

    def look() -> Any:
        def of(begin: int, end: int) -> tuple[int, float]:
            variances = _variances(operands, begin, end)
            return int(np.count_nonzero(variances)), float(variances.max())

        found = operands.map(of)
        scale = exact_scale(max(largest for _, largest in found))
        return sum(varying for varying, _ in found), scale, count(_scaled_variances(operands, scale))

    varying, scale, table = operands.once("variances", [operands.base, *operands.inputs], look)
    k = int(varying * share)
    if k == 0 or k == operands.size:
        return ALL if k else NONE
    return unscaled(table.cut(k, _scaled_variances(operands, scale)), scale)


def _scaled_variances(operands: Operands, scale: Any) -> Values:
    return Values(lambda begin, end: (None, _variances(operands, begin, end) * scale), operands.pieces, operands.over)


@compiled
def fill_variances(base: Any, xs: Any, variances: Any) -> None:
    """Set variances, float32, to those of the x_i - base."""
    k = np.float32(len(xs))
    for j in range(variances.shape[0]):
        b = load(base, j)
        mean = load(xs[0], j) - b
        for i in range(1, len(xs)):
            mean += load(xs[i], j) - b
        mean = mean / k
        variance = ZERO
        for i in range(len(xs)):
            apart = (load(xs[i], j) - b) - mean
            variance += apart * apart
        variances[j] = variance / k


@compiled
def _selected(delta: Any, variances: Any, least: Any, j: int) -> Any:
    """Return delta, or 0 where the variance of element j is below `least`."""
    if variances is None:
        return delta
    return ZERO if variances[j] < least else delta


@compiled
def sum_squares(base: Any, x: Any, variances: Any, least: Any) -> float:
    """Return the sum, float64, of the squares, float32, of what is selected of x - base."""
    n = base.shape[0]
    found = 0.0
    squares = np.empty(BLOCK, np.float32)
    for begin in range(0, n, BLOCK):
        own_base, own = base[begin : begin + BLOCK], x[begin : begin + BLOCK]
        own_variances = part(variances, begin, begin + BLOCK)
        for j in range(own.shape[0]):
            delta = _selected(load(own, j) - load(own_base, j), own_variances, least, j)
            squares[j] = delta * delta
        found += total(squares[: own.shape[0]])
    return found


@compiled
def average_agreeing(base: Any, xs: Any, w: Any, variances: Any, least: Any, out: Any) -> bool:
    """Set out to base + the mean, weighed by w, of those x_i - base whose sign is that of their sum.

    Only of what is selected. A sum of 0 counts as positive. True where all of the result is finite.
    """
    largest = np.int32(0)
    for j in range(out.shape[0]):
        b = load(base, j)
        elected = ZERO
        for i in range(len(xs)):
            elected += _selected(load(xs[i], j) - b, variances, least, j)
        sign = np.uint32(bits(elected) & SIGN)
        mixed, divisor = ZERO, ZERO
        for i in range(len(xs)):
            delta = _selected(load(xs[i], j) - b, variances, least, j)
            agreeing = real(np.uint32(bits(delta) ^ sign))
            apart = agreeing <= ZERO  # False for NaN, which has to show in the result
            mixed += (ZERO if apart else agreeing) * w[i]
            divisor += ZERO if apart else w[i]
        mixed = mixed / max(divisor, LEAST)
        largest = max(largest, store(out, j, real(np.uint32(bits(mixed) ^ sign)) + b))
    return finite(largest, out)
