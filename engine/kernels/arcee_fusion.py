"""Arcee Fusion: importances in torch, row by row, their quartiles by counting, and one pass that selects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from engine.kernels.kernel import Merge, floats
from engine.kernels.magnitudes import Magnitudes, Values, count
from engine.kernels.scaling import exact_scale, unscaled
from engine.kernels.words import compiled, finite, load, store
from engine.methods.arcee_fusion import importances, places, threshold
from engine.methods.method import Array, Rng
from engine.methods.selection import order_statistics
from engine.operands import Operands, widened

ZERO = np.float32(0.0)
BLOCK = 1 << 18
"""Elements whose importances are found at once, about: torch's intermediate tensors stay in the cache."""
SMALL = 1 << 16
"""Elements up to which sorting takes less time than the calls that count."""


def arcee_fusion(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Merge | None:
    """Find the threshold, and return how a piece is merged; see `engine.methods.arcee_fusion`."""
    (source,) = operands.inputs
    shape = operands.job.shape
    importance = np.empty(operands.size, np.float32)

    row = shape[-1] if len(shape) > 1 else operands.size
    step = row * max(1, BLOCK // row)

    def measure(begin: int, end: int) -> None:
        for first in range(begin, end, step):
            last = min(first + step, end)
            words = (source.words(first, last), operands.base_words(first, last))
            x, base = (torch.from_numpy(widened(own)).view(-1, row) for own in words)
            importance[first:last] = importances(x, base).flatten().numpy()

    if len(shape) > 1:
        operands.map(measure)
    else:
        measure(0, operands.size)  # one row, which has no pieces
    (least,) = floats([threshold(*_order_statistics(importance, operands))])

    def merge(begin: int, end: int, out: Array) -> bool:
        base, x = operands.base_words(begin, end), source.words(begin, end)
        return bool(take_important(base, x, importance[begin:end], least, out))

    return merge


def _order_statistics(importance: Array, operands: Operands) -> list[float]:
    """Return the quartiles. Magnitudes can be counted, so that what rounding has left below 0 is counted apart."""
    n = importance.size
    if n < SMALL:
        return order_statistics(torch.from_numpy(importance), places(n))
    negative = sum(operands.map(lambda b, e: int(np.count_nonzero(importance[b:e] < 0))))
    scale = exact_scale(max(operands.map(lambda b, e: float(np.abs(importance[b:e]).max()))))
    above = Values(lambda b, e: (None, np.maximum(importance[b:e], 0) * scale), operands.pieces, operands.over)
    below = Values(lambda b, e: (None, np.minimum(importance[b:e], 0) * -scale), operands.pieces, operands.over)
    tables: dict[bool, Magnitudes] = {}
    found = []
    for place in places(n):
        is_negative = place < negative
        values, k = (below, place + 1) if is_negative else (above, n - place)
        if is_negative not in tables:
            tables[is_negative] = count(values)
        magnitude = unscaled(tables[is_negative].cut(k, values), scale).magnitude
        found.append(-magnitude if is_negative else magnitude)
    return found


@compiled
def take_important(base: Any, x: Any, importance: Any, least: Any, out: Any) -> bool:
    """Set out to x where the importance reaches `least`, else base; True where all of it is finite."""
    largest = np.int32(0)
    for j in range(out.shape[0]):
        b = load(base, j)
        delta = load(x, j) - b
        taken = ZERO if importance[j] < least else delta  # NaN is taken, and has to show in the result
        largest = max(largest, store(out, j, taken + b))
    return finite(largest, out)
