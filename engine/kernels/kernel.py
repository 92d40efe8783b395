"""What a kernel is: the fused way to do what a method's reference does, with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from engine.methods.method import Array, Rng
from engine.operands import Operands

Merge: TypeAlias = Callable[[int, int, Array], bool]
"""(begin, end, words): sets the words, uint16 (bfloat16) or float32, to the elements of the merged tensor from begin to
end; returns whether all are finite. Pieces may be merged in any order, several at a time."""

Kernel: TypeAlias = "Callable[[Operands, Mapping[str, Any], Rng], Merge | None]"
"""Reads the inputs as often as the method needs to know them as a whole, and returns how a piece is merged. None: the
parameters ask for something that only the reference does. Raises RecipeError as the reference does."""


def floats(numbers: Iterable[float]) -> tuple[np.float32, ...]:
    """Return the numbers as compiled loops take them, rounded as torch rounds the factor of a float32 tensor."""
    with np.errstate(over="ignore"):  # too large a number is infinite, and so is what it weighs
        return tuple(np.float32(number) for number in numbers)
