"""Weighted mean of the models: "model soups" (Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import combine, share
from engine.methods.method import INT8_MASK, Array, Combination, Method, Parameter, Rng


def linear(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return sum_i w_i X_i, the weights divided by their sum if `normalize`."""
    return combine(COMBINATION, tensors, base, p)


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    return share(p["weight"], "linear", "normalize") if p["normalize"] else list(p["weight"])


COMBINATION = Combination("inputs", _coefficients, gram=False)

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
    combination=COMBINATION,
)
