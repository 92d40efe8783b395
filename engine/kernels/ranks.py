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


@compiled
def rank_rows(base: Any, x: Any, row: int, ranks: Any) -> None:
    """Set ranks, uint32, to the rank of |x - base| in its row of `row` elements, 0 for the smallest.

    Of equal magnitudes the earlier position ranks higher. Zeros rank lowest.
    """
    words = np.empty(row, np.uint32)
    pairs, others = np.empty(row, np.uint64), np.empty(row, np.uint64)
    counts = np.empty(1 << DIGITS, np.uint32)
    most = 4 if row < 64 else 8 if row < 1024 else 9 if row < 4096 else DIGITS
    for begin in range(0, x.shape[0], row):
        own = ranks[begin : begin + row]
        low, least, span = _magnitudes(part(base, begin, begin + row), part(x, begin, begin + row), words)
        for j in range(row):  # backwards: a stable sort then leaves later ones of equal magnitudes lower
            word = words[row - 1 - j]
            key = np.uint64(0) if word == 0 else np.uint64(np.uint32(word >> low) - least)
            pairs[j] = np.uint64(key << np.uint64(32)) | np.uint64(row - 1 - j)
        passes = max(1, (span + most - 1) // most)
        width = (span + passes - 1) // passes
        mask = np.uint64((1 << width) - 1)
        for turn in range(passes):
            shift = np.uint64(32 + turn * width)
            table = counts[: 1 << width]
            _count(pairs, shift, mask, table)
            if turn < passes - 1:
                _move(pairs, shift, mask, table, others)
                pairs, others = others, pairs
            else:
                _place(pairs, shift, mask, table, own)
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
def _count(pairs: Any, shift: Any, mask: Any, table: Any) -> None:
    """Set table to where the pairs of each digit go."""
    table[:] = np.uint32(0)
    for pair in pairs:
        table[np.uint64(np.uint64(pair >> shift) & mask)] += np.uint32(1)
    before = np.uint32(0)
    for digit in range(table.shape[0]):
        found = table[digit]
        table[digit] = before
        before = np.uint32(before + found)


@compiled
def _move(pairs: Any, shift: Any, mask: Any, table: Any, others: Any) -> None:
    for pair in pairs:
        digit = np.uint64(np.uint64(pair >> shift) & mask)
        place = table[digit]
        table[digit] = np.uint32(place + np.uint32(1))
        others[place] = pair


@compiled
def _place(pairs: Any, shift: Any, mask: Any, table: Any, ranks: Any) -> None:
    """Move for the last time, and note the place only."""
    for pair in pairs:
        digit = np.uint64(np.uint64(pair >> shift) & mask)
        place = table[digit]
        table[digit] = np.uint32(place + np.uint32(1))
        ranks[np.uint64(pair & np.uint64(0xFFFFFFFF))] = place


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
