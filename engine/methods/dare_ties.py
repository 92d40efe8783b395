"""Random drop of DARE (arXiv:2311.03099) with the sign election of TIES (arXiv:2306.01708)."""

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


def dare_ties(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Drop at random, restore the L1 norm if `rescale`, then sum the elements that agree with the elected sign."""
    return merge_task_vectors(tensors, base, p, sparsify=random_sparsifier(p, rng), consensus=True)


DARE_TIES = Method(
    name="dare_ties",
    reference=dare_ties,
    parameters=(WEIGHT, DENSITY, *shared_parameters(normalize=False, rescale=True)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "scale"),
    paper="arXiv:2311.03099, arXiv:2306.01708",
    sparsified="consensus",
)
