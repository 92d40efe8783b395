"""DELLA's drop by rank of magnitude (Deep et al. 2024), without the election of signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.della import EPSILON, MARGINAL_DENSITY, magnitude_sparsifier
from engine.methods.method import Method, Rng
from engine.methods.task_vectors import WEIGHT, merge_task_vectors, shared_parameters


def della_linear(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return B + lambda * sum_i w_i drop(X_i - B); `rescale` restores the L1 norm, as mergekit does, not 1/p."""
    return merge_task_vectors(tensors, base, p, sparsify=magnitude_sparsifier("della_linear", p, rng), consensus=False)


DELLA_LINEAR = Method(
    name="della_linear",
    reference=della_linear,
    parameters=(WEIGHT, MARGINAL_DENSITY, EPSILON, *shared_parameters(normalize=False, rescale=True)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "scale"),
    paper="arXiv:2406.11617",
    sparsified="sum",
)
