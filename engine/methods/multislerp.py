"""Barycentric interpolation of any number of models on a sphere (Buss and Fillmore 2001, one step)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine.errors import RecipeError
from engine.methods.combination import combine, lengths, share
from engine.methods.method import Array, Combination, Method, Parameter, Rng

CANCELLED = 1e-6
"""A mean of unit vectors shorter than this has no direction that float32 would show."""


def multislerp(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return (sum_i w_i |V_i|) m, with m the direction of sum_i w_i V_i/|V_i|, plus the base if there is one.

    V are the models, or the differences from the base. mergekit projects the units onto the tangent space at m and
    follows the exponential map of their weighted mean v there; but sum_i w_i (U_i - (U_i.m) m) = |m| m - |m| m is 0,
    so what is left of the map is the factor cos(eps).
    """
    return combine(COMBINATION, tensors, base, p)


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    weights, eps, length = list(p["weight"]), p["eps"], lengths(gram)
    if len(weights) == 1:
        return [1.0]
    if p["normalize_weights"]:
        weights = share(weights, "multislerp", "normalize_weights")
    w = np.array(weights)
    if not length.any():
        return weights  # zeros, whatever the weights
    unit = np.divide(w, length + eps, out=np.zeros_like(length), where=length > 0)
    mean = math.sqrt(max(0.0, float(unit @ gram @ unit)))
    if mean < max(eps, CANCELLED):
        if len(weights) == 2:
            return weights
        raise RecipeError(f"multislerp: the directions cancel out with the weights {weights}; change them")
    return [float(c) for c in unit / mean * (math.cos(eps) * float(w @ length))]


COMBINATION = Combination("deltas", _coefficients)

MULTISLERP = Method(
    name="multislerp",
    reference=multislerp,
    parameters=(
        Parameter("weight", None, "share of the model", low=0.05, high=1.0, scope="non_base"),
        Parameter("normalize_weights", True, "divide the weights by their sum", kind=bool),
        Parameter("eps", 1e-8, "guard against divisions by 0", least=0.0),
    ),
    base="optional",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="Buss and Fillmore 2001, doi:10.1145/502122.502124",
    combination=COMBINATION,
)
