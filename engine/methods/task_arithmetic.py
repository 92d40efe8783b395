"""Weighted sum of task vectors (Ilharco et al. 2023, arXiv:2212.04089)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import combine
from engine.methods.method import Array, Combination, Method, Rng
from engine.methods.task_vectors import UNUSED_DENSITY, WEIGHT, factors, shared_parameters


def task_arithmetic(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return B + lambda * sum_i w_i (X_i - B), the sum divided by sum_i w_i if `normalize`."""
    return combine(COMBINATION, tensors, base, p)


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    return factors(p, [1.0] * len(p["weight"]))


COMBINATION = Combination("deltas", _coefficients, gram=False)


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    reference=task_arithmetic,
    parameters=(WEIGHT, UNUSED_DENSITY, *shared_parameters(normalize=False, rescale=False)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="arXiv:2212.04089",
    combination=COMBINATION,
)
