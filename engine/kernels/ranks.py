"""Ranks of magnitudes within rows, by a radix sort of their bits, and draws with probabilities that follow them.

Floats that are not negative are ordered as their bits are. Only the bits that tell a row's magnitudes apart are sorted
by: differences of bfloat16 have few, so that two passes of the sort do for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.task_vectors import mix
from engine.kernels.words import MAGNITUDE, bits, compiled, part, value
from engine.methods.draws import TWO32

INFINITE = np.uint32(0x7F800000)
KEPT = np.uint32(0xFFFFFFFF)
"""In place of the rank of what is not finite, which must not be dropped: the result has to show it."""
_TOP = np.int32(0x7FFFFFFF)
DIGITS = 11
"""Bits sorted by in one pass, at most: their counts stay in the fastest cache."""
FEW = 64
"""Elements up to which each is compared with all."""


@compiled
def rank_rows(base: Any, x: Any, row: int, ranks: Any) -> None:
    """Set ranks, uint32, to the rank of |x - base| in its row of `row` elements, 0 for the smallest.

    Of equal magnitudes the earlier position ranks higher. Zeros rank lowest.
    """
    words = np.empty(row, np.uint32)
    pairs, others = np.empty(row, np.uint64), np.empty(row, np.uint64)
    counts = np.empty((2, 1 << DIGITS), np.uint32)
    most = 8 if row < 1024 else 9 if row < 4096 else DIGITS
    for begin in range(0, x.shape[0], row):
        own = ranks[begin : begin + row]
        low, least, span = _magnitudes(part(base, begin, begin + row), part(x, begin, begin + row), words)
        if row <= FEW:
            _compare(words, own)
        else:
            pairs, others = _sort(words, low, least, span, most, counts, pairs, others, own)
        for j in range(row):
            own[j] = KEPT if words[j] >= INFINITE else own[j]


@compiled
def _magnitudes(base: Any, x: Any, words: Any) -> Any:
    """Set words to the magnitudes of |x - base|; return (low, least, span).

    (word >> low) - least tells them apart. It takes `span` bits, and is above 0 where the word is.
    """
    every, largest, smallest = np.uint32(0), np.int32(0), _TOP
    for j in range(words.shape[0]):
        word = np.uint32(bits(value(base, x, j)) & MAGNITUDE)
        words[j] = word
        every = np.uint32(every | word)
        signed = np.int32(word)
        largest = max(largest, signed)
        smallest = min(smallest, signed if signed > np.int32(0) else _TOP)
    if every == 0:
        return np.uint32(0), np.uint32(0), 0
    low = 0
    while np.uint32(every >> np.uint32(low)) & np.uint32(1) == 0:
        low += 1
    least = np.uint32((np.int64(smallest) >> low) - 1)
    range_ = (np.int64(largest) >> low) - np.int64(least)
    span = 0
    while range_ > 0:
        range_ >>= 1
        span += 1
    return np.uint32(low), least, span


@compiled
def _compare(words: Any, ranks: Any) -> None:
    """Rank a few words by comparing each with all."""
    for j in range(words.shape[0]):
        own, rank = words[j], np.uint32(0)
        for other in range(words.shape[0]):
            higher = (own > words[other]) | ((own == words[other]) & (j < other))
            rank = np.uint32(rank + np.uint32(higher))
        ranks[j] = rank


@compiled
def _sort(
    words: Any, low: Any, least: Any, span: int, most: int, counts: Any, pairs: Any, others: Any, ranks: Any
) -> Any:
    """Rank words by a radix sort of `most` bits at a time; return the two arrays of pairs, which it overwrites."""
    row = words.shape[0]
    for j in range(row):  # backwards: a stable sort then leaves later ones of equal magnitudes lower
        word = words[row - 1 - j]
        key = np.uint64(0) if word == 0 else np.uint64(np.uint32(word >> low) - least)
        pairs[j] = np.uint64(key << np.uint64(32)) | np.uint64(row - 1 - j)
    passes = max(1, (span + most - 1) // most)
    width = (span + passes - 1) // passes
    mask = np.uint64((1 << width) - 1)
    for turn in range(passes):
        shift = np.uint64(32 + turn * width)
        first, second = counts[0, : 1 << width], counts[1, : 1 << width]
        _count(pairs, shift, mask, first, second)
        if turn < passes - 1:
            _move(pairs, shift, mask, first, second, others)
            pairs, others = others, pairs
        else:
            _place(pairs, shift, mask, first, second, ranks)
    return pairs, others


@compiled
def _count(pairs: Any, shift: Any, mask: Any, first: Any, second: Any) -> None:
    """Set two tables to where the pairs of each digit go, those of the first half and those of the second.

    Halves are worked on in turn, in all of these loops: where one digit is frequent, its counter is waited for less.
    """
    first[:], second[:] = np.uint32(0), np.uint32(0)
    half = np.uint64(pairs.shape[0] // 2)
    for j in range(half):
        first[np.uint64(np.uint64(pairs[j] >> shift) & mask)] += np.uint32(1)
        second[np.uint64(np.uint64(pairs[j + half] >> shift) & mask)] += np.uint32(1)
    if pairs.shape[0] % 2:
        second[np.uint64(np.uint64(pairs[-1] >> shift) & mask)] += np.uint32(1)
    before = np.uint32(0)
    for digit in range(first.shape[0]):
        own, other = first[digit], second[digit]
        first[digit] = before
        second[digit] = np.uint32(before + own)
        before = np.uint32(np.uint32(before + own) + other)


@compiled
def _next(pair: Any, shift: Any, mask: Any, table: Any) -> Any:
    digit = np.uint64(np.uint64(pair >> shift) & mask)
    place = table[digit]
    table[digit] = np.uint32(place + np.uint32(1))
    return place


@compiled
def _move(pairs: Any, shift: Any, mask: Any, first: Any, second: Any, others: Any) -> None:
    half = np.uint64(pairs.shape[0] // 2)
    for j in range(half):
        pair, other = pairs[j], pairs[j + half]
        others[_next(pair, shift, mask, first)] = pair
        others[_next(other, shift, mask, second)] = other
    if pairs.shape[0] % 2:
        others[_next(pairs[-1], shift, mask, second)] = pairs[-1]


@compiled
def _place(pairs: Any, shift: Any, mask: Any, first: Any, second: Any, ranks: Any) -> None:
    """Move for the last time, and note the place only."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(pairs.shape[0] // 2)
    for j in range(half):
        pair, other = pairs[j], pairs[j + half]
        ranks[np.uint64(pair & low)] = _next(pair, shift, mask, first)
        ranks[np.uint64(other & low)] = _next(other, shift, mask, second)
    if pairs.shape[0] % 2:
        ranks[np.uint64(pairs[-1] & low)] = _next(pairs[-1], shift, mask, second)


@compiled
def mark(ranks: Any, line: Any, words: Any, masks: Any, bit: Any) -> None:
    """Set `bit` of the masks, uint8, where the drawn word is below the probability of the rank.

    `line` is (factor, divisor, least), float64, of the probability factor * rank / divisor + least; `words` is
    (lower half of the key, `upper_word`, lower half of the first position), uint32.
    """
    factor, divisor, least = line
    key, upper, start = words
    for j in range(masks.shape[0]):
        rank = ranks[j]
        drawn = mix(np.uint32(mix(np.uint32(np.uint32(start + np.uint32(j)) ^ key)) + upper))
        chance = np.float64(rank) * factor / divisor + least
        taken = (np.float64(drawn) < chance * TWO32) | (rank == KEPT)
        masks[j] |= bit if taken else np.uint8(0)


@compiled
def mark_all(masks: Any, bit: Any) -> None:
    """Set `bit` of all masks."""
    for j in range(masks.shape[0]):
        masks[j] |= bit
