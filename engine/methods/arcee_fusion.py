"""Take over only the important changes of a model (Arcee Fusion, 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import needed
from engine.methods.method import Method, Rng
from engine.methods.selection import order_statistics
from engine.methods.task_vectors import masked


def arcee_fusion(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return X where the change is important, else B; B + (X - B) [I >= median + 1.5 (q3 - q1)].

    The quartiles are elements floor(q (n - 1)) of the ascending importances I of all n elements. (mergekit draws a
    million elements of larger tensors.)
    """
    base, (x,) = needed(base), tensors
    if x.numel() == 0:
        return x.clone()
    importance = importances(x, base)
    least = threshold(*order_statistics(importance, places(importance.numel())))
    return masked(x - base, importance >= least).add_(base)


def places(n: int) -> list[int]:
    """Return where the quartiles stand in the ascending order of n elements."""
    return [int(q * (n - 1)) for q in (0.25, 0.5, 0.75)]


def threshold(q1: float, median: float, q3: float) -> float:
    """Return the least importance of what is taken over."""
    return median + 1.5 * (q3 - q1)


def importances(x: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return |X - B| times the row's sum of p log(p / q), p = softmax(X) + 1e-8, q = softmax(B) + 1e-8.

    Rows run along the last dimension; a vector is one row.
    """
    p, q = (torch.softmax(tensor.reshape(1) if tensor.ndim == 0 else tensor, dim=-1).add_(1e-8) for tensor in (x, base))
    divergence = (p * (p / q).log_()).sum(-1, keepdim=True, dtype=torch.float64).to(x.dtype)
    return ((x - base).abs_() * divergence).view(x.shape)


ARCEE_FUSION = Method(
    name="arcee_fusion",
    reference=arcee_fusion,
    parameters=(),
    base="required",
    inputs=(1, 1),
    differentiable=False,
    invariants=("identity",),
    paper="arcee.ai, Meet mergekit v0.1: Arcee Fusion (2025)",
)
