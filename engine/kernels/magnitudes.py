"""Exact order statistics without sorting: which magnitude |x - base| (or |x|) is the k-th largest, for any k.

Differences of bfloat16 tensors have few distinct magnitudes (some ten thousand among millions), so that counting each
of them in a small hash table gives a table which answers for every k. Where there are too many (float32 sources), the
table has buckets of magnitudes, and the one bucket that holds the k-th is gone through once more.
Floats that are not negative are ordered as their bits are: magnitudes are uint32 words here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.kernels.counting import (
    EVERYWHERE,
    HIGHEST,
    LOWEST,
    OPEN_BITS,
    collect,
    count_buckets,
    count_distinct,
    nth_equal,
    used_slots,
)
from engine.kernels.words import MAGNITUDE
from engine.methods.method import Array

SLOTS = 1 << 17
"""Of a hash table, at most: 1.5 MiB, which stays in the second cache."""
_THREAD = threading.local()


@dataclass(frozen=True)
class Values:
    """Numbers |x - base|, or |x|: `read(begin, end)` returns the words of base (or None) and x, piece by piece.

    `over(function, pieces)` returns function(begin, end) of every piece, in order, in threads or not.
    """

    read: Callable[[int, int], tuple[Array | None, Array]]
    pieces: Sequence[tuple[int, int]]
    over: Callable[[Callable[[int, int], Any], Sequence[tuple[int, int]]], list[Any]]


class Cut(NamedTuple):
    """Where the k largest end: elements above `magnitude` belong to them, equal ones at positions below `position`.

    A tuple, as `sum_band` takes it; `above` is the next larger magnitude. Both are float32.
    """

    magnitude: Any
    above: Any
    position: int

    def least(self, position: int) -> Any:
        """Return the least magnitude that belongs to the largest at this position."""
        return self.magnitude if position < self.position else self.above


def cut_at(magnitude: float, position: int) -> Cut:
    """Return the cut at a magnitude and a position."""
    return Cut(np.float32(magnitude), np.nextafter(np.float32(magnitude), INFINITY), position)


INFINITY = np.float32(np.inf)
ALL = cut_at(0.0, EVERYWHERE)
NONE = cut_at(math.inf, EVERYWHERE)


@dataclass(frozen=True)
class Magnitudes:
    """The magnitudes, or `buckets` of them, that occur, descending, and how many elements each and all above have.

    `words` uint32 (m,): the magnitude's bits, or those of a bucket but the open ones; `reaching` int64 (m,).
    """

    words: Array
    reaching: Array
    buckets: bool

    @property
    def all_zero(self) -> bool:
        """Whether there is no magnitude but 0."""
        return int(self.words[0]) == 0 and not self.buckets

    def cut(self, k: int, values: Values) -> Cut:
        """Return where the k largest end, 1 <= k <= n. Equal magnitudes rank by position, the first highest."""
        place = int(np.searchsorted(self.reaching, k))
        word, above = int(self.words[place]), int(self.reaching[place - 1]) if place else 0
        if self.buckets:
            return self._cut_in_bucket(word, k - above, values)
        if word == 0 or k == self.reaching[place]:  # whether zeros are kept does not matter
            return cut_at(_real(word), EVERYWHERE)
        return cut_at(_real(word), _position_of(k - above, np.uint32(word), values))

    def _cut_in_bucket(self, bucket: int, k: int, values: Values) -> Cut:
        low = np.uint32(1 if bucket == LOWEST else bucket << OPEN_BITS)  # there may be very many zeros
        high = np.uint32(MAGNITUDE if bucket == HIGHEST else ((bucket + 1) << OPEN_BITS) - 1)

        def inside(begin: int, end: int) -> tuple[Array, Array]:
            words, positions = collect(*values.read(begin, end), low, high)
            return words, positions + begin

        found = values.over(inside, values.pieces)
        words = np.concatenate([part[0] for part in found])
        positions = np.concatenate([part[1] for part in found])
        if k > len(words):
            return ALL  # whether zeros are kept does not matter
        threshold = np.partition(words, len(words) - k)[len(words) - k]
        equal = positions[words == threshold]
        missing = k - int(np.count_nonzero(words > threshold))
        return cut_at(_real(int(threshold)), int(equal[missing - 1]) + 1)


def _real(word: int) -> float:
    return float(np.array([word], np.uint32).view(np.float32)[0])


def _position_of(nth: int, word: Any, values: Values) -> int:
    """Return the position after the nth element that has this magnitude."""
    for begin, end in values.pieces:
        place, nth = nth_equal(*values.read(begin, end), word, nth)
        if place >= 0:
            return begin + int(place) + 1
    raise ValueError("fewer elements than were counted: the weights have changed while they were read")


def count(values: Values) -> Magnitudes:
    """Count all magnitudes, exactly where there are few distinct ones, else in buckets. There is one at least."""

    def distinct(begin: int, end: int) -> tuple[Array, Array] | None:
        base, x = values.read(begin, end)
        for slots in (_few_slots(end - begin), SLOTS):
            keys, counts = _hash_table(slots)
            if (zeros := count_distinct(base, x, keys, counts)) >= 0:
                words, numbers = used_slots(keys, counts)
                return np.append(words, np.uint32(0)), np.append(numbers, np.uint32(zeros))
        return None

    tables = [distinct(*values.pieces[0])]
    if tables[0] is not None:
        tables += values.over(distinct, values.pieces[1:])
    whole = [table for table in tables if table is not None]
    if len(whole) == len(tables):
        return _descending(np.concatenate([t[0] for t in whole]), np.concatenate([t[1] for t in whole]), buckets=False)

    def buckets(begin: int, end: int) -> Array:
        counts = np.zeros((2, HIGHEST - LOWEST + 1), np.uint32)
        count_buckets(*values.read(begin, end), counts[0], counts[1])
        return counts.sum(axis=0)

    counts = np.sum(values.over(buckets, values.pieces), axis=0)
    used = np.flatnonzero(counts)
    return _descending(used.astype(np.uint32) + np.uint32(LOWEST), counts[used], buckets=True)


def _descending(words: Array, counts: Array, *, buckets: bool) -> Magnitudes:
    order = np.argsort(words, kind="stable")[::-1]
    words, counts = words[order], counts[order].astype(np.int64)
    starts = np.flatnonzero(np.diff(words, prepend=words[:1] + np.uint32(1)))  # pieces share magnitudes
    return Magnitudes(words[starts].copy(), np.cumsum(np.add.reduceat(counts, starts)), buckets)


def _hash_table(slots: int) -> tuple[Array, Array]:
    """Return an empty table, this thread's own: fresh memory costs more than counting a small tensor."""
    if not hasattr(_THREAD, "keys"):
        _THREAD.keys, _THREAD.counts = np.empty(SLOTS, np.uint32), np.empty((SLOTS, 2), np.uint32)
    keys, counts = _THREAD.keys[:slots], _THREAD.counts[:slots]
    keys.fill(0)
    counts.fill(0)
    return keys, counts


def _few_slots(n: int) -> int:
    """Return a size of the hash table that serves most tensors of n elements, and is quickly found to be too small."""
    return min(SLOTS, 1 << max(14, (n // 64).bit_length()))
