"""Loops that count and find magnitudes |x - base|, or |x|, as uint32 words; see `engine.kernels.magnitudes`."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.words import BLOCK, MAGNITUDE, bits, compiled, part, value

OPEN_BITS = 13
"""Bits of a magnitude that a bucket leaves open: 1,024 buckets between two powers of two."""
LOWEST, HIGHEST = (127 - 32) << 10, (127 + 8) << 10
"""The buckets of 2^-32 and 2^8, in the first and the last of which all smaller and larger magnitudes count as well."""
EVERYWHERE = 1 << 62
"""A position behind all elements."""
NEAR, TIES = 256, 4096
"""Elements that are counted before they are gone through one by one: few may be wanted, or only the last ones."""


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
def _hash(words: Any, shift: Any, places: Any) -> None:
    """Set the places of the words + 1 in a hash table: Knuth's multiplicative hashing."""
    for j in range(words.shape[0]):
        places[j] = np.uint32(np.uint32(np.uint32(words[j] + np.uint32(1)) * np.uint32(0x9E3779B1)) >> shift)


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
        _hash(words, shift, places)
        for j in range(words.shape[0]):
            key, slot = np.uint32(words[j] + np.uint32(1)), places[j]
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
