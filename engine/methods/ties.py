"""Trim, elect sign, merge (TIES; Yadav et al. 2023, arXiv:2306.01708)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.method import Method, Rng
from engine.methods.task_vectors import DENSITY, WEIGHT, keep_band, merge_task_vectors, shared_parameters


def ties(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Keep each task vector's largest magnitudes; average the elements that agree with the elected sign."""
    return merge_task_vectors(
        tensors, base, p, sparsify=lambda delta, i: keep_band(delta, p["density"][i], None), consensus=True
    )


TIES = Method(
    name="ties",
    reference=ties,
    parameters=(WEIGHT, DENSITY, *shared_parameters(normalize=True, rescale=False)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "order", "scale"),
    paper="arXiv:2306.01708",
    sparsified="consensus",
)
