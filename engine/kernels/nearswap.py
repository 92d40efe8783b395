"""NearSwap in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.kernels.kernel import Merge, floats
from engine.kernels.words import compiled, finite, load, store
from engine.methods.method import Array, Rng
from engine.operands import Operands

ZERO, ONE, LEAST = np.float32(0.0), np.float32(1.0), np.float32(1e-6)


def nearswap(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Merge | None:
    """Return how a piece is merged; see `engine.methods.nearswap`."""
    (t,) = floats([p["t"]])
    (source,) = operands.inputs

    def merge(begin: int, end: int, out: Array) -> bool:
        return bool(swap_near(operands.base_words(begin, end), source.words(begin, end), t, out))

    return merge


@compiled
def swap_near(base: Any, x: Any, t: Any, out: Any) -> bool:
    """Set out to s x + (1 - s) base, s = t / |x - base| from 0 to 1; True where all of it is finite."""
    largest = np.int32(0)
    for j in range(out.shape[0]):
        b, own = load(base, j), load(x, j)
        distance = abs(own - b)
        share = ONE / (LEAST if distance < LEAST else distance) * t
        share = ONE if share > ONE else share  # comparisons that leave NaN as it is
        share = ZERO if share < ZERO else share
        largest = max(largest, store(out, j, own * share + b * (ONE - share)))
    return finite(largest, out)
