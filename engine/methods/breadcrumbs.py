"""Drop the largest and the smallest elements of the task vectors (Model Breadcrumbs; Davari and Belilovsky 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.method import Method, Parameter, Rng
from engine.methods.task_vectors import DENSITY, WEIGHT, Sparsifier, keep_band, merge_task_vectors, shared_parameters

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


BREADCRUMBS = Method(
    name="breadcrumbs",
    reference=breadcrumbs,
    parameters=(WEIGHT, DENSITY, GAMMA, *shared_parameters(normalize=False, rescale=False)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="arXiv:2312.06795",
    sparsified="sum",
)
