"""Spherical interpolation of two models, or of their task vectors where a base is named (Shoemake 1985)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine.methods.combination import combine, lengths, row_grams, rows_of, weighted_sum
from engine.methods.method import Array, Combination, Method, Parameter, Rng

COLLINEAR = 1e-12
"""Below this 1 - cos^2 the line serves: the arc differs from it by less than float32 shows, and at an angle of 180
degrees there is none. (mergekit asks for 1e-16 in the tensors' own precision, which float32 meets at 0 only.)"""


def nuslerp(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return sin((1-t)θ)/sinθ V_1 + sin(tθ)/sinθ V_2, with t = w_2 / (w_1 + w_2), plus the base if there is one.

    V are the models, or the differences from the base. θ is the angle between the whole tensors; without
    `nuslerp_flatten` between their rows (along the last dimension), or with `nuslerp_row_wise` along the first.
    """
    if p["nuslerp_flatten"] or tensors[0].ndim == 0:
        return combine(COMBINATION, tensors, base, p)
    vectors = [x if base is None else x - base for x in tensors]
    if p["nuslerp_row_wise"]:
        vectors = [v.transpose(0, -1) for v in vectors]
    merged = weighted_sum(rows_of(_interpolation(row_grams(vectors), p), vectors[0]), vectors)
    if p["nuslerp_row_wise"]:
        merged = merged.transpose(0, -1)
    return merged if base is None else merged + base


@np.errstate(invalid="ignore")  # rows that are not finite give NaN
def _interpolation(gram: Array, p: Mapping[str, Any]) -> list[Array]:
    """Return the two coefficients for every Gram matrix, shape (..., 2, 2)."""
    first, second = p["weight"]
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    length = np.maximum(lengths(gram), 1e-7)
    cosine = np.clip(gram[..., 0, 1] / (length[..., 0] * length[..., 1]), -1.0, 1.0)
    collinear = 1.0 - cosine**2 <= COLLINEAR
    angle = np.where(collinear, 1.0, np.arccos(cosine))
    ends = ((1.0 - t), t)
    return [np.where(collinear, end, np.sin(end * angle) / np.sin(angle)) for end in ends]


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    return [float(c) for c in _interpolation(gram, p)]


COMBINATION = Combination("deltas", _coefficients, whole=lambda p: bool(p["nuslerp_flatten"]))

NUSLERP = Method(
    name="nuslerp",
    reference=nuslerp,
    parameters=(
        Parameter("weight", None, "share of the model", low=0.0, high=1.0, scope="non_base"),
        Parameter("nuslerp_flatten", True, "one angle for the whole tensor", kind=bool),
        Parameter("nuslerp_row_wise", False, "if not flattened: vectors along the first dimension", kind=bool),
    ),
    base="optional",
    inputs=(2, 2),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="Shoemake 1985, doi:10.1145/325334.325242",
    combination=COMBINATION,
)
