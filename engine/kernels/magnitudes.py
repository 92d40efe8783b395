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
from typing import Any

import numpy as np

from engine.kernels.words import MAGNITUDE, bits, compiled, part, value
from engine.methods.method import Array

OPEN_BITS = 13
"""Bits of a magnitude that a bucket leaves open: 1,024 buckets between two powers of two."""
LOWEST, HIGHEST = (127 - 32) << 10, (127 + 8) << 10
"""The buckets of 2^-32 and 2^8, in the first and the last of which all smaller and larger magnitudes count as well."""
SLOTS = 1 << 17
"""Of the hash table, at most: 1 MiB, which stays in the second cache."""
BLOCK = 1024
NEAR, TIES = 256, 4096
"""Elements that are counted before they are gone through one by one: few may be wanted, or only the last ones."""


_THREAD = threading.local()


@dataclass(frozen=True)
class Values:
    """Numbers |x - base|, or |x|: `read(begin, end)` returns the words of base (or None) and x, piece by piece.

    `over(function, pieces)` returns function(begin, end) of every piece, in order, in threads or not.
    """

    read: Callable[[int, int], tuple[Array | None, Array]]
    pieces: Sequence[tuple[int, int]]
    over: Callable[[Callable[[int, int], Any], Sequence[tuple[int, int]]], list[Any]]


@dataclass(frozen=True)
class Cut:
    """Where the k largest end: elements above `magnitude` belong to them, equal ones at positions below `position`."""

    magnitude: float
    position: int = 0

    def least(self, position: int) -> Any:
        """Return the least magnitude, float32, that belongs to the largest at this position."""
        before, after, cut = self.limit
        return before if position < cut else after

    @property
    def limit(self) -> tuple[Any, Any, int]:
        """The magnitude, float32, the next larger one, and the position: as `sum_band` takes them."""
        magnitude = np.float32(self.magnitude)
        return magnitude, np.nextafter(magnitude, INFINITY), self.position


EVERYWHERE = 1 << 62
INFINITY = np.float32(np.inf)
ALL = Cut(0.0, EVERYWHERE)
NONE = Cut(math.inf, EVERYWHERE)


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
            return Cut(_real(word), EVERYWHERE)
        return Cut(_real(word), _position_of(k - above, np.uint32(word), values))

    def _cut_in_bucket(self, bucket: int, k: int, values: Values) -> Cut:
        low = np.uint32(0 if bucket == LOWEST else bucket << OPEN_BITS)
        high = np.uint32(MAGNITUDE if bucket == HIGHEST else ((bucket + 1) << OPEN_BITS) - 1)

        def inside(begin: int, end: int) -> tuple[Array, Array]:
            words, positions = collect(*values.read(begin, end), low, high)
            return words, positions + begin

        found = values.over(inside, values.pieces)
        words = np.concatenate([part[0] for part in found])
        positions = np.concatenate([part[1] for part in found])
        threshold = np.partition(words, len(words) - k)[len(words) - k]
        equal = positions[words == threshold]
        missing = k - int(np.count_nonzero(words > threshold))
        return Cut(_real(int(threshold)), int(equal[missing - 1]) + 1)


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
    return min(SLOTS, 1 << max(10, (n // 32).bit_length()))


@compiled
def _fill(base: Any, x: Any, words: Any) -> None:
    """Set words, uint32, to the magnitudes of |x - base|."""
    for j in range(words.shape[0]):
        words[j] = np.uint32(bits(value(base, x, j)) & MAGNITUDE)


@compiled
def _largest(words: Any) -> Any:
    largest = np.uint32(0)
    for word in words:
        largest = max(largest, word)
    return largest


@compiled
def count_distinct(base: Any, x: Any, keys: Any, counts: Any) -> int:
    """Count |x - base| in an open hash table with the magnitudes + 1 as keys, 0 where free.

    counts, (slots, 2), are of even and odd elements: equal neighbours need not wait for each other. Returns -1 once
    the table is half full, else how many zeros are *not* in it: those in stretches of nothing else, which many
    fine-tunes have.
    """
    slots = keys.shape[0]
    last = np.uint32(slots - 1)
    free = slots // 2
    shift = np.uint32(32)
    while slots > 1:
        slots >>= 1
        shift -= np.uint32(1)
    zeros = 0
    block, places = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    n = x.shape[0]
    for begin in range(0, n, BLOCK):
        words = block[: min(BLOCK, n - begin)]
        _fill(part(base, begin, begin + BLOCK), part(x, begin, begin + BLOCK), words)
        if _largest(words) == 0:
            zeros += words.shape[0]
            continue
        for j in range(words.shape[0]):  # Knuth's multiplicative hashing, in a loop of its own that vectorises
            words[j] = np.uint32(words[j] + np.uint32(1))
            places[j] = np.uint32(np.uint32(words[j] * np.uint32(0x9E3779B1)) >> shift)
        for j in range(words.shape[0]):
            key, slot = words[j], places[j]
            while keys[slot] != key:
                if keys[slot] == 0:
                    keys[slot] = key
                    free -= 1
                    break
                slot = np.uint32(np.uint32(slot + np.uint32(1)) & last)
            counts[slot, j & 1] += np.uint32(1)
        if free < BLOCK:
            return -1
    return zeros


@compiled
def used_slots(keys: Any, counts: Any) -> Any:
    """Return the magnitudes in a hash table, and their counts."""
    words, numbers = np.empty_like(keys), np.empty_like(keys)
    used = 0
    for slot in range(keys.shape[0]):
        if keys[slot] != 0:
            words[used] = np.uint32(keys[slot] - np.uint32(1))
            numbers[used] = np.uint32(counts[slot, 0] + counts[slot, 1])
            used += 1
    return words[:used], numbers[:used]


@compiled
def count_buckets(base: Any, x: Any, even: Any, odd: Any) -> None:
    """Count the buckets of |x - base| in two tables, of even and odd elements: equal neighbours need not wait."""
    block = np.empty(BLOCK, np.uint32)
    n = x.shape[0]
    for begin in range(0, n, BLOCK):
        words = block[: min(BLOCK, n - begin)]
        _fill(part(base, begin, begin + BLOCK), part(x, begin, begin + BLOCK), words)
        for j in range(words.shape[0]):
            bucket = np.int32(words[j] >> np.uint32(OPEN_BITS))
            words[j] = np.uint32(min(max(bucket, np.int32(LOWEST)), np.int32(HIGHEST)) - np.int32(LOWEST))
        for j in range(0, words.shape[0] - 1, 2):
            even[words[j]] += np.uint32(1)
            odd[words[j + 1]] += np.uint32(1)
        if words.shape[0] % 2:
            even[words[-1]] += np.uint32(1)


@compiled
def _count_between(base: Any, x: Any, low: Any, high: Any) -> Any:
    """Return how many magnitudes of |x - base| lie from low to high."""
    found = np.uint32(0)
    for j in range(x.shape[0]):
        word = np.uint32(bits(value(base, x, j)) & MAGNITUDE)
        found = np.uint32(found + np.uint32((word >= low) & (word <= high)))
    return np.int64(found)


@compiled
def collect(base: Any, x: Any, low: Any, high: Any) -> Any:
    """Return the magnitudes of |x - base| from low to high, and their positions, in order: uint32 and int64."""
    words, positions = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.int64)
    found = 0
    n = x.shape[0]
    for begin in range(0, n, NEAR):
        own_base, own = part(base, begin, begin + NEAR), part(x, begin, begin + NEAR)
        hits = _count_between(own_base, own, low, high)
        if hits == 0:
            continue
        if found + hits > words.shape[0]:
            words = np.concatenate((words, np.empty_like(words)))
            positions = np.concatenate((positions, np.empty_like(positions)))
        for j in range(own.shape[0]):
            word = np.uint32(bits(value(own_base, own, j)) & MAGNITUDE)
            if (word >= low) & (word <= high):
                words[found] = word
                positions[found] = begin + j
                found += 1
    return words[:found], positions[:found]


@compiled
def nth_equal(base: Any, x: Any, word: Any, nth: int) -> Any:
    """Return (index of the nth element of that magnitude, 0), or (-1, how many are missing)."""
    n = x.shape[0]
    for begin in range(0, n, TIES):
        own_base, own = part(base, begin, begin + TIES), part(x, begin, begin + TIES)
        here = _count_between(own_base, own, word, word)
        if here < nth:
            nth -= here
            continue
        for j in range(own.shape[0]):
            if np.uint32(bits(value(own_base, own, j)) & MAGNITUDE) == word:
                nth -= 1
                if nth == 0:
                    return begin + j, 0
    return -1, nth


@compiled
def exact_cuts(words: Any, reaching: Any, ks: Any, base: Any, xs: Any, found: Any) -> None:
    """Set found, int64 (k, 2), to bits of the magnitude and position of each source's cut, where ks is above 0.

    What `Magnitudes.cut` does for tables of magnitudes and tensors of one piece, for all sources in one call.
    """
    for i in range(len(xs)):
        if ks[i] <= 0:
            continue
        place = np.searchsorted(reaching[i], ks[i])
        word = words[i][place]
        found[i, 0], found[i, 1] = word, EVERYWHERE
        if word != 0 and ks[i] != reaching[i][place]:
            above = reaching[i][place - 1] if place > 0 else 0
            found[i, 1] = nth_equal(base, xs[i], word, ks[i] - above)[0] + 1
