"""Spherical interpolation between the base and one model (Shoemake 1985)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import combine, lengths
from engine.methods.method import INT8_MASK, Array, Combination, Method, Parameter, Rng

PARALLEL = 0.9995
"""Above this |cos| the angle is too small to divide by its sine: interpolate on the line."""


def slerp(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return sin((1-t)θ)/sinθ B + sin(tθ)/sinθ X, with θ the angle between the flattened tensors; t=0 is the base."""
    return combine(COMBINATION, tensors, base, p)


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    t = p["t"]
    a, b = (1.0 if length <= 1e-8 else float(length) for length in lengths(gram))
    cosine = float(gram[0, 1]) / (a * b)
    if not abs(cosine) <= PARALLEL:  # NaN too
        return [1.0 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


COMBINATION = Combination("base and inputs", _coefficients)

SLERP = Method(
    name="slerp",
    reference=slerp,
    parameters=(
        Parameter("t", None, "0 is the base, 1 the other model", low=0.0, high=1.0),
        INT8_MASK,
    ),
    base="required",
    inputs=(1, 1),
    differentiable=True,
    invariants=("identity", "scale"),
    paper="Shoemake 1985, doi:10.1145/325334.325242",
    combination=COMBINATION,
)
