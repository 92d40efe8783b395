"""RAM and RAM+ in one pass, and one more that counts what each model alone has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.kernels.kernel import Merge, floats
from engine.kernels.words import BLOCK, compiled, finite, load, store
from engine.methods.method import Array, Rng
from engine.methods.ramplus_tl import amplification
from engine.operands import Operands

ZERO, ONE = np.float32(0.0), np.float32(1.0)


def ram(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Merge | None:
    """Return how a piece is merged; see `engine.methods.ram`."""
    return _mean(operands, p["epsilon"], [1.0] * len(operands.inputs))


def ramplus_tl(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Merge | None:
    """Count, and return how a piece is merged; see `engine.methods.ramplus_tl`."""
    (epsilon,) = floats([p["epsilon"]])

    def counts() -> Array:
        def of(begin: int, end: int) -> Array:
            found = np.zeros((2, len(operands.inputs)), np.int64)
            count_changed(operands.base_words(begin, end), operands.words(begin, end), epsilon, found)
            return found

        return np.asarray(np.sum(operands.map(of), axis=0))

    unique, every = operands.once(f"changed by {p['epsilon']}", [operands.base, *operands.inputs], counts)
    factors = [amplification(int(own), int(all_ - own), p) for own, all_ in zip(unique, every, strict=True)]
    return _mean(operands, p["epsilon"], factors)


def _mean(operands: Operands, least: float, factors: list[float]) -> Merge:
    (epsilon,), c = floats([least]), floats(factors)

    def merge(begin: int, end: int, out: Array) -> bool:
        return bool(average_changed(operands.base_words(begin, end), operands.words(begin, end), epsilon, c, out))

    return merge


@compiled
def average_changed(base: Any, xs: Any, epsilon: Any, c: Any, out: Any) -> bool:
    """Set out to base + the sum of those x_i - base beyond epsilon / their number, times c_i where it is one.

    True where all of it is finite.
    """
    largest = np.int32(0)
    for j in range(out.shape[0]):
        b = load(base, j)
        count = ZERO
        for i in range(len(xs)):
            delta = load(xs[i], j) - b
            count += ZERO if abs(delta) <= epsilon else ONE  # NaN has changed
        delta = load(xs[0], j) - b
        added = (ZERO if abs(delta) <= epsilon else delta) * (c[0] if count == ONE else ONE)
        for i in range(1, len(xs)):
            delta = load(xs[i], j) - b
            added += (ZERO if abs(delta) <= epsilon else delta) * (c[i] if count == ONE else ONE)
        largest = max(largest, store(out, j, added / max(count, ONE) + b))
    return finite(largest, out)


@compiled
def count_changed(base: Any, xs: Any, epsilon: Any, found: Any) -> None:
    """Add to found, int64 (2, k), how many elements only model i has changed, and how many it has at all."""
    n = base.shape[0]
    counts = np.empty(BLOCK, np.int32)
    for begin in range(0, n, BLOCK):
        b = base[begin : begin + BLOCK]
        own_counts = counts[: b.shape[0]]
        own_counts[:] = np.int32(0)
        for i in range(len(xs)):
            x = xs[i][begin : begin + BLOCK]
            for j in range(b.shape[0]):
                own_counts[j] += np.int32(0) if abs(load(x, j) - load(b, j)) <= epsilon else np.int32(1)
        for i in range(len(xs)):
            x = xs[i][begin : begin + BLOCK]
            unique, every = np.int32(0), np.int32(0)
            for j in range(b.shape[0]):
                changed = np.int32(0) if abs(load(x, j) - load(b, j)) <= epsilon else np.int32(1)
                every += changed
                unique += changed if own_counts[j] == np.int32(1) else np.int32(0)
            found[0, i] += unique
            found[1, i] += every
