"""Weighted mean of the models: "model soups" (Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.errors import RecipeError
from engine.methods.method import INT8_MASK, Method, Parameter, Rng


def linear(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return sum_i w_i X_i, divided by sum_i w_i if `normalize`."""
    w = p["weight"]
    merged = tensors[0].mul(w[0])
    for x, w_i in zip(tensors[1:], w[1:], strict=True):
        merged.add_(x, alpha=w_i)
    if p["normalize"]:
        total = sum(w)
        if abs(total) < 1e-12:
            raise RecipeError(f"linear: the weights {list(w)} sum to 0; change them or set normalize: false")
        merged.div_(total)
    return merged


LINEAR = Method(
    name="linear",
    reference=linear,
    parameters=(
        Parameter("weight", None, "share of the model", low=0.0, high=1.0, scope="input"),
        Parameter("normalize", True, "divide by the sum of the weights", kind=bool),
        INT8_MASK,
    ),
    base="ignored",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="arXiv:2203.05482",
)
