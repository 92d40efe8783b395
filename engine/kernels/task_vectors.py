"""Sums of sparsified task vectors in one pass, with and without sign consensus.

What is kept of a task vector is said by a *rule* for each source:
    (low,), float32                    elements with low <= |delta|
    (low, high), float32               elements with low <= |delta| < high
    (key, offset, last), uint32        those whose drawn word (see `engine.methods.draws`) is at most `last`
or, for all sources together, uint8 words (n,) of which bit i says whether the i-th source's element is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import overload

from engine.kernels.weighted_sum import total
from engine.kernels.words import BLOCK, SIGN, bits, compiled, finite, load, real, store

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@compiled
def mix(x: Any) -> Any:
    """Return triple32(x) of a uint32, as `engine.methods.draws` defines it."""
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(17))) * np.uint32(0xED5AD4BB))
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(11))) * np.uint32(0xAC4C1B51))
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x31848BAB))
    return np.uint32(x ^ np.uint32(x >> np.uint32(14)))


def kept(rules: Any, i: int, start: Any, j: int, delta: Any) -> Any:
    """Return whether element j of a chunk that begins at `start` (uint32) belongs to what is kept of source i."""
    raise NotImplementedError("only inside compiled loops")


@overload(kept, inline="always", strict=False)
def _kept(rules: Any, i: Any, start: Any, j: Any, delta: Any) -> Any:
    if isinstance(rules, types.Array):
        return lambda rules, i, start, j, delta: (rules[j] >> np.uint8(i)) & np.uint8(1) != 0
    if rules.dtype.count == 1:
        return lambda rules, i, start, j, delta: ~(abs(delta) < rules[i][0])
    if rules.dtype.count == 2:
        return lambda rules, i, start, j, delta: ~(abs(delta) < rules[i][0]) & ~(abs(delta) >= rules[i][1])
    return lambda rules, i, start, j, delta: (
        mix(np.uint32(mix(np.uint32(np.uint32(start + np.uint32(j)) ^ rules[i][0])) + rules[i][1])) <= rules[i][2]
    )


def rules_from(rules: Any, begin: int) -> Any:
    """Return the rules for what comes from `begin` on."""
    raise NotImplementedError("only inside compiled loops")


@overload(rules_from, strict=False)
def _rules_from(rules: Any, begin: Any) -> Any:
    if isinstance(rules, types.Array):
        return lambda rules, begin: rules[begin:]
    return lambda rules, begin: rules


@compiled
def sum_kept(base: Any, xs: Any, c: Any, rules: Any, start: Any, out: Any) -> bool:
    """Set out to base + sum_i c_i kept(x_i - base); True where all of it is finite."""
    largest = np.int32(0)
    for j in range(out.shape[0]):
        b = load(base, j)
        delta = load(xs[0], j) - b
        added = (delta if kept(rules, 0, start, j, delta) else ZERO) * c[0]
        for i in range(1, len(xs)):
            delta = load(xs[i], j) - b
            added += (delta if kept(rules, i, start, j, delta) else ZERO) * c[i]
        largest = max(largest, store(out, j, added + b))
    return finite(largest, out)


@compiled
def sum_agreeing(
    base: Any, xs: Any, c: Any, w: Any, rules: Any, start: Any, factor: Any, divided: bool, out: Any
) -> bool:
    """Set out to base + factor * (sum of those c_i kept(x_i - base) whose sign is that of their sum).

    With `divided` the sum is divided by the sum of the w_i of the elements that take part, where that is not 0.
    A sum of 0 counts as positive. True where all of the result is finite.
    """
    largest = np.int32(0)
    for j in range(out.shape[0]):
        b = load(base, j)
        elected = ZERO
        for i in range(len(xs)):
            delta = load(xs[i], j) - b
            elected += (delta if kept(rules, i, start, j, delta) else ZERO) * c[i]
        # A sum of -0 is a sum of zeros, of which none takes part: its sign does not matter.
        sign = np.uint32(bits(elected) & SIGN)
        mixed, divisor = ZERO, ZERO
        for i in range(len(xs)):
            delta = load(xs[i], j) - b
            term = (delta if kept(rules, i, start, j, delta) else ZERO) * c[i]
            agreeing = real(np.uint32(bits(term) ^ sign))
            apart = agreeing <= ZERO  # False for NaN, which has to show in the result
            mixed += ZERO if apart else agreeing
            divisor += ZERO if apart else w[i]
        if divided:
            mixed = mixed / (ONE if divisor == ZERO else divisor)
        largest = max(largest, store(out, j, b + real(np.uint32(bits(mixed) ^ sign)) * factor))
    return finite(largest, out)


@compiled
def l1_sums(base: Any, x: Any, rules: Any, start: Any) -> Any:
    """Return the sums of |x - base|, and of what the first rule keeps of it, in float64."""
    n = x.shape[0]
    every, some = 0.0, 0.0
    sizes, kept_sizes = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for begin in range(0, n, BLOCK):
        own_base, own = base[begin : begin + BLOCK], x[begin : begin + BLOCK]
        own_rules = rules_from(rules, begin)
        own_start = np.uint32(start + np.uint32(begin))
        for j in range(own.shape[0]):
            delta = load(own, j) - load(own_base, j)
            sizes[j] = abs(delta)
            kept_sizes[j] = abs(delta) if kept(own_rules, 0, own_start, j, delta) else ZERO
        every += total(sizes[: own.shape[0]])
        some += total(kept_sizes[: own.shape[0]])
    return every, some


@compiled
def sum_band(
    base: Any, xs: Any, c: Any, w: Any, band: Any, begin: Any, factor: Any, divided: bool, agreeing: bool, out: Any
) -> bool:
    """Do `sum_agreeing`, or `sum_kept`, where elements with low <= |delta| < high are kept, for limits with positions.

    `band` is (low, high, rules): for each source a limit (magnitude, the next larger one, position): the magnitude
    counts before the position, the next larger one behind it. `rules` are any rules, which say by their kind whether
    `high` counts at all. The piece begins at the position `begin`.
    """
    low, high, rules = band
    finite, first, n = True, 0, out.shape[0]
    while first < n:
        last = n
        for i in range(len(xs)):
            for edge in (low[i][2] - begin, high[i][2] - begin):
                last = edge if first < edge < last else last
        for i in range(len(xs)):
            rules = tuple_setitem(rules, i, _rule(rules[i], low[i], high[i], begin + first))
        own = _parts(xs, first, last)
        start = np.uint32(0)  # bands do not depend on it
        if agreeing:
            finite &= sum_agreeing(base[first:last], own, c, w, rules, start, factor, divided, out[first:last])
        else:
            finite &= sum_kept(base[first:last], own, c, rules, start, out[first:last])
        first = last
    return finite


def _parts(xs: Any, first: int, last: int) -> Any:
    raise NotImplementedError("only inside compiled loops")


@overload(_parts, strict=False)
def _parts_of(xs: Any, first: Any, last: Any) -> Any:
    if len(xs) == 1:
        return lambda xs, first, last: (xs[0][first:last],)
    return lambda xs, first, last: (xs[0][first:last],) + _parts(xs[1:], first, last)  # noqa: RUF005


def _rule(like: Any, low: Any, high: Any, position: int) -> Any:
    raise NotImplementedError("only inside compiled loops")


@overload(_rule, strict=False)
def _rule_like(like: Any, low: Any, high: Any, position: Any) -> Any:
    if like.count == 1:
        return lambda like, low, high, position: (_least(low, position),)
    return lambda like, low, high, position: (_least(low, position), _least(high, position))


@compiled
def _least(limit: Any, position: Any) -> Any:
    return limit[0] if position < limit[2] else limit[1]
