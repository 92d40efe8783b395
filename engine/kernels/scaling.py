"""Exact scaling into the range in which `engine.kernels.magnitudes` tells magnitudes apart well."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels.counting import HIGHEST
from engine.kernels.magnitudes import Cut, cut_at

_TOP = (HIGHEST >> 10) - 127
"""The power of two at which the buckets end."""


def exact_scale(largest: float) -> Any:
    """Return a power of two, float32 and at least 1, with which no number up to `largest` passes the last bucket.

    Numbers that are multiplied by it lose nothing; 1 where `largest` is 0 or not finite.
    """
    if not 0.0 < largest < math.inf:
        return np.float32(1.0)
    return np.float32(2.0 ** min(max(_TOP - math.frexp(largest)[1], 0), 127))


def unscaled(cut: Cut, scale: Any) -> Cut:
    """Return the cut of the numbers themselves."""
    return cut_at(float(cut.magnitude) / float(scale), cut.position)
