"""Spherical interpolation between the base and one model (Shoemake 1985)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.errors import RecipeError
from engine.methods.method import INT8_MASK, Method, Parameter, Rng

PARALLEL = 0.9995
"""Above this |cos| the angle is too small to divide by its sine: interpolate on the line."""


def slerp(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return sin((1-t)θ)/sinθ B + sin(tθ)/sinθ X, with θ the angle between the flattened tensors; t=0 is the base."""
    if base is None:
        raise RecipeError("slerp: needs a base_model")
    x, t = tensors[0], p["t"]
    a, b = _length(base), _length(x)
    # In float64, so that the order of summation (the number of threads) hardly ever shows in the result.
    cosine = float((base * x).sum(dtype=torch.float64)) / (a * b)
    cosine = min(1.0, max(-1.0, cosine)) if math.isfinite(cosine) else cosine
    if not abs(cosine) <= PARALLEL:
        return base.mul(1.0 - t).add_(x, alpha=t)
    angle = math.acos(cosine)
    a_part, b_part = math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return base.mul(a_part).add_(x, alpha=b_part)


def _length(x: torch.Tensor) -> float:
    length = math.sqrt(float(x.square().sum(dtype=torch.float64)))
    return 1.0 if length <= 1e-8 else length


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
)
