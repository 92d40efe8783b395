"""Select, calculate, erase (FuseChat's SCE; Wan et al. 2024): weights from the task vectors' own sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import needed
from engine.methods.method import INT8_MASK, Method, Parameter, Rng
from engine.methods.selection import largest
from engine.methods.task_vectors import elected_sign, masked


def sce(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return B + the mean of the task vectors' elements that agree in sign, weighed by each one's mean square.

    With `select_topk` below 1 only the elements where the models vary most take part.
    """
    base = needed(base)
    deltas = [x - base for x in tensors]
    if p["select_topk"] < 1.0:
        mask = varying_most(deltas, p["select_topk"])
        deltas = [masked(delta, mask) for delta in deltas]
    weights = shares(mean_squares(deltas))
    sigma = elected_sign(deltas)
    merged = torch.zeros_like(sigma)
    divisor = torch.zeros_like(sigma)
    for delta, w in zip(deltas, weights, strict=True):
        agreeing = delta.mul_(sigma).relu_()
        merged.add_(agreeing.mul(w))
        divisor.add_(agreeing.gt_(0.0).mul_(w))
    return merged.div_(divisor.clamp_(min=1e-6)).mul_(sigma).add_(base)


def varying_most(deltas: Sequence[torch.Tensor], share: float) -> torch.Tensor:
    """Return the mask of the given share of the elements whose variance over the models is not 0, the largest."""
    k = len(deltas)
    mean = deltas[0].clone()
    for delta in deltas[1:]:
        mean.add_(delta)
    mean.div_(k)
    variance = torch.zeros_like(mean)
    for delta in deltas:
        variance.add_(delta.sub(mean).square_())
    variance.div_(k)
    return largest(variance, int(int(torch.count_nonzero(variance)) * share))


def mean_squares(deltas: Sequence[torch.Tensor]) -> list[float]:
    """Return each task vector's mean square, summed in float64."""
    return [float(delta.square().sum(dtype=torch.float64)) / max(1, delta.numel()) for delta in deltas]


def shares(squares: Sequence[float]) -> list[float]:
    """Return each mean square divided by their sum; equal shares where that is below 1e-6."""
    total = sum(squares)
    return [1.0 / len(squares) if total < 1e-6 else square / total for square in squares]


SCE = Method(
    name="sce",
    reference=sce,
    parameters=(
        Parameter("select_topk", 1.0, "share of the varying elements that is kept", 0.1, 1.0, least=0.0, most=1.0),
        INT8_MASK,
    ),
    base="required",
    inputs=(1, None),
    differentiable=False,
    invariants=("identity", "order"),
    paper="arXiv:2408.07990",
)
