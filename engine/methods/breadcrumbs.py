"""Drop the largest and the smallest elements of the task vectors (Model Breadcrumbs; Davari and Belilovsky 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.method import Method, Parameter, Rng
from engine.methods.selection import largest
from engine.methods.task_vectors import DENSITY, WEIGHT, Sparsifier, masked, merge_task_vectors, shared_parameters

GAMMA = Parameter(
    "gamma", 0.01, "share of the largest elements that is dropped", 0.0, 0.1, "non_base", least=0.0, most=1.0
)


def breadcrumbs(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return B + lambda * sum_i w_i trim(X_i - B), trimmed at both ends of the order of magnitudes."""
    return merge_task_vectors(tensors, base, p, sparsify=band_sparsifier(p), consensus=False)


def band_sparsifier(p: Mapping[str, Any]) -> Sparsifier:
    """Return the sparsifier that keeps a band of magnitudes."""
    return lambda delta, i: keep_band(delta, p["density"][i], p["gamma"][i])


def keep_band(delta: torch.Tensor, density: float, gamma: float) -> torch.Tensor:
    """Return delta with t = int(density n) elements: those below the int(gamma n) largest magnitudes.

    The density comes first: if it is more than 1 - gamma, fewer of the largest are dropped. Ties as in `selection`.
    """
    n = delta.numel()
    kept, top = int(density * n), int(gamma * n)
    top = min(top, n - kept)
    magnitude = delta.abs()
    return masked(delta, largest(magnitude, top + kept) & ~largest(magnitude, top))


BREADCRUMBS = Method(
    name="breadcrumbs",
    reference=breadcrumbs,
    parameters=(WEIGHT, DENSITY, GAMMA, *shared_parameters(normalize=False, rescale=False)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="arXiv:2312.06795",
)
