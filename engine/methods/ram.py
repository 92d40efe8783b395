"""Reinforced Agent Merging: what one model alone has changed is kept whole, what several have is averaged (RAM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import needed
from engine.methods.method import Method, Parameter, Rng

EPSILON = Parameter("epsilon", 1e-5, "an element that changed by no more is taken as unchanged", least=0.0)


def ram(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return B + the sum of the changed elements of the task vectors / the number of models that changed them."""
    base = needed(base)
    changes = changed(tensors, base, p["epsilon"])
    return mean_of_changed(changes, counts(changes)).add_(base)


def changed(tensors: Sequence[torch.Tensor], base: torch.Tensor, epsilon: float) -> list[torch.Tensor]:
    """Return X_i - B with 0 where its magnitude is no more than epsilon."""
    deltas = [x - base for x in tensors]
    return [delta.masked_fill_(delta.abs() <= epsilon, 0.0) for delta in deltas]


def counts(changes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return by how many models each element was changed, in the changes' dtype."""
    count = torch.zeros_like(changes[0])
    for change in changes:
        count.add_(change.ne(0.0))
    return count


def mean_of_changed(changes: Sequence[torch.Tensor], count: torch.Tensor) -> torch.Tensor:
    """Return the sum over the models / max(count, 1)."""
    merged = changes[0].clone()
    for change in changes[1:]:
        merged.add_(change)
    return merged.div_(count.clamp(min=1.0))


RAM = Method(
    name="ram",
    reference=ram,
    parameters=(EPSILON,),
    base="required",
    inputs=(1, None),
    differentiable=False,
    invariants=("identity", "order"),
    paper="arXiv:2601.13572",
)
