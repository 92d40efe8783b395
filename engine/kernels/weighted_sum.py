"""sum_i c_i V_i in one pass, and the Gram matrix of the V_i in another: all that whole-tensor methods need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.kernels.kernel import Kernel, Merge, floats
from engine.kernels.words import compiled, finite, load, part, store, value
from engine.methods.combination import NO_GRAM
from engine.methods.method import Array, Combination, Rng
from engine.operands import Operands

LANES = 16
"""Partial sums kept side by side: as many as vectors hold anywhere, and always as many, so that all machines agree."""


def weighted_sum(combination: Combination) -> Kernel:
    """Return the kernel of a method that weighs whole tensors."""

    def kernel(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Merge | None:
        if not combination.whole(p):
            return None
        with_base = combination.of == "base and inputs"
        deltas = combination.of == "deltas" and operands.base is not None
        matrix = gram_of(operands, combination) if combination.gram else NO_GRAM
        c = floats(combination.weigh(matrix, p))

        def merge(begin: int, end: int, out: Array) -> bool:
            if deltas:
                return bool(sum_deltas(operands.base_words(begin, end), operands.words(begin, end), c, out))
            return bool(sum_inputs(_vectors(operands, with_base, begin, end), c, out))

        return merge

    return kernel


def gram_of(operands: Operands, combination: Combination) -> Array:
    """Return the Gram matrix of what the method weighs, computed once for all candidates."""
    with_base = combination.of == "base and inputs"
    deltas = combination.of == "deltas" and operands.base is not None

    def gram() -> Array:
        def of(begin: int, end: int) -> Array:
            base = operands.base_words(begin, end) if deltas else None
            found = _vectors(operands, with_base, begin, end)
            part = np.zeros((len(found), len(found)))
            add_products(base, found, part)
            return part

        upper: Array = np.sum(operands.map(of), axis=0)
        return np.triu(upper) + np.triu(upper, 1).T

    members = [operands.base if with_base or deltas else None, *operands.inputs]
    return operands.once(f"gram of {combination.of}", members, gram)


def _vectors(operands: Operands, with_base: bool, begin: int, end: int) -> tuple[Array, ...]:
    return operands.all_words(begin, end) if with_base else operands.words(begin, end)


@compiled
def sum_inputs(xs: Any, c: Any, out: Any) -> bool:
    """Set out to c_1 x_1 + c_2 x_2 + ...; True where all of it is finite."""
    largest = np.int32(0)
    for j in range(out.shape[0]):
        total = load(xs[0], j) * c[0]
        for i in range(1, len(xs)):
            total += load(xs[i], j) * c[i]
        largest = max(largest, store(out, j, total))
    return finite(largest, out)


@compiled
def sum_deltas(base: Any, xs: Any, c: Any, out: Any) -> bool:
    """Set out to base + c_1 (x_1 - base) + ...; True where all of it is finite."""
    largest = np.int32(0)
    for j in range(out.shape[0]):
        b = load(base, j)
        total = (load(xs[0], j) - b) * c[0]
        for i in range(1, len(xs)):
            total += (load(xs[i], j) - b) * c[i]
        largest = max(largest, store(out, j, total + b))
    return finite(largest, out)


@compiled
def add_products(base: Any, xs: Any, gram: Any) -> None:
    """Add to gram, float64 (m, m), its upper half: the dot products of the x_i, or of x_i - base where there is one.

    Products of float32 are exact in float64; they are summed in `LANES` partial sums.
    """
    m = len(xs)
    for i in range(m):
        for other in range(i, m):
            gram[i, other] += _dot(base, xs[i], xs[other])


@compiled
def total(x: Any) -> float:
    """Return the sum of float32 numbers in float64."""
    n = x.shape[0]
    whole = n - n % LANES
    sums = np.zeros(LANES)
    for j in range(0, whole, LANES):
        for lane in range(LANES):
            sums[lane] += np.float64(x[j + lane])
    for j in range(whole, n):
        sums[0] += np.float64(x[j])
    return sums.sum()


@compiled
def _dot(base: Any, x: Any, y: Any) -> float:
    sums = np.zeros(LANES)
    n = x.shape[0]
    for begin in range(0, n, LANES):
        own_base = part(base, begin, begin + LANES)
        own_x, own_y = part(x, begin, begin + LANES), part(y, begin, begin + LANES)
        for lane in range(own_x.shape[0]):
            sums[lane] += np.float64(value(own_base, own_x, lane)) * np.float64(value(own_base, own_y, lane))
    return sums.sum()
