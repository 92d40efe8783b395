"""Stored words as numbers, inside compiled loops: bfloat16 as uint16 words, float32 as itself.

numba knows no bfloat16. A bfloat16 is the upper half of a float32, so that a shift widens it exactly, and adding half
a step (to even) before the shift rounds it (IEEE 754, round to nearest, ties to even). Everything here is free of
branches, so that the loops vectorise on any processor.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

BLOCK = 1024
"""Elements worked on at once where a loop has several steps: they stay in the fastest cache."""
MAGNITUDE = np.uint32(0x7FFFFFFF)
SIGN = np.uint32(0x80000000)
_INFINITE = np.int32(0x7F800000)
_ROUNDS_TO_INFINITE = np.int32(0x7F7F8000)  # the least magnitude that is no finite bfloat16


def compiled(function: Any) -> Any:
    """Compile a loop: it runs outside of the interpreter's lock, and divides by 0 as IEEE 754 does.

    It is compiled once per installation, or once per process where neither the installation nor the user's cache
    folder can be written to.
    """
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(nogil=True, error_model="numpy")(function)


@intrinsic
def bits(context: Any, x: Any) -> Any:
    """Return the bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def real(context: Any, word: Any) -> Any:
    """Return the float32 that has these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


def load(words: Any, j: int) -> Any:
    """Return element j of uint16 words (bfloat16) or float32 words, as a float32."""
    raise NotImplementedError("only inside compiled loops")


@overload(load, inline="always", strict=False)
def _load(words: Any, j: Any) -> Any:
    if words.dtype == types.uint16:
        return lambda words, j: real(np.uint32(np.uint32(words[j]) << np.uint32(16)))
    return lambda words, j: words[j]


def part(words: Any, begin: int, end: int) -> Any:
    """Return the words from begin to end, or None of None.

    Loops go over parts from 0 on: an index that might be negative, as numba must think of a sum, is not vectorised.
    """
    raise NotImplementedError("only inside compiled loops")


@overload(part, inline="always", strict=False)
def _part(words: Any, begin: Any, end: Any) -> Any:
    if isinstance(words, types.NoneType):
        return lambda words, begin, end: None
    return lambda words, begin, end: words[begin:end]


@compiled
def value(base: Any, words: Any, j: int) -> Any:
    """Return element j, or its difference from the base's where `base` is not None."""
    if base is None:
        return load(words, j)
    return load(words, j) - load(base, j)


def store(words: Any, j: int, x: Any) -> Any:
    """Set element j to the float32 x, rounded; return x's magnitude as int32 bits, for `finite`.

    A conditional expression must not stand in its arguments: numba 0.68 then leaves the store away, without a word.
    """
    raise NotImplementedError("only inside compiled loops")


@overload(store, inline="always", strict=False)
def _store(words: Any, j: Any, x: Any) -> Any:
    if words.dtype == types.uint16:

        def store_bfloat16(words: Any, j: Any, x: Any) -> Any:
            u = bits(x)
            odd = np.uint32(np.uint32(u >> np.uint32(16)) & np.uint32(1))
            rounded = np.uint32(u + np.uint32(np.uint32(0x7FFF) + odd))
            words[j] = np.uint16(np.uint32(rounded >> np.uint32(16)))
            return np.int32(u & MAGNITUDE)

        return store_bfloat16

    def store_float32(words: Any, j: Any, x: Any) -> Any:
        words[j] = x
        return np.int32(bits(x) & MAGNITUDE)

    return store_float32


def finite(largest: Any, words: Any) -> bool:
    """Return whether the largest magnitude that was stored in such words is finite there, after rounding."""
    raise NotImplementedError("only inside compiled loops")


@overload(finite, strict=False)
def _finite(largest: Any, words: Any) -> Any:
    if words.dtype == types.uint16:
        return lambda largest, words: largest < _ROUNDS_TO_INFINITE
    return lambda largest, words: largest < _INFINITE
