"""Drop elements of the task vectors at random, rescale, add (DARE; Yu et al. 2023, arXiv:2311.03099)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.method import Method, Rng
from engine.methods.task_vectors import (
    DENSITY,
    WEIGHT,
    merge_task_vectors,
    random_sparsifier,
    shared_parameters,
)


def dare_linear(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return B + lambda * sum_i w_i drop(X_i - B); `rescale` restores the L1 norm, as mergekit does, not 1/density."""
    return merge_task_vectors(tensors, base, p, sparsify=random_sparsifier(p, rng), consensus=False)


DARE_LINEAR = Method(
    name="dare_linear",
    reference=dare_linear,
    parameters=(WEIGHT, DENSITY, *shared_parameters(normalize=False, rescale=True)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "scale"),
    paper="arXiv:2311.03099",
    sparsified="sum",
)
