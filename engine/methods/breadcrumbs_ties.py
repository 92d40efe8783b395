"""Model Breadcrumbs' trim (arXiv:2312.06795) with the sign election of TIES (arXiv:2306.01708)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.breadcrumbs import GAMMA, band_sparsifier
from engine.methods.method import Method, Rng
from engine.methods.task_vectors import DENSITY, WEIGHT, merge_task_vectors, shared_parameters


def breadcrumbs_ties(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Trim each task vector at both ends of the order of magnitudes; sum what agrees with the elected sign."""
    return merge_task_vectors(tensors, base, p, sparsify=band_sparsifier(p), consensus=True)


BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    reference=breadcrumbs_ties,
    parameters=(WEIGHT, DENSITY, GAMMA, *shared_parameters(normalize=False, rescale=False)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="arXiv:2312.06795, arXiv:2306.01708",
    sparsified="consensus",
)
