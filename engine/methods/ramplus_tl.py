"""RAM+ with factors from each tensor: what a model alone has changed is amplified where it shares much (RAM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import needed
from engine.methods.method import Method, Parameter, Rng
from engine.methods.ram import EPSILON, changed, counts, mean_of_changed


def ramplus_tl(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return RAM's merge with elements that only model i has changed multiplied by 1 + r clamp(rho_i, 0, alpha).

    rho_i = shared elements of model i / max(its unique elements, epsilon), counted within the tensor.
    """
    base = needed(base)
    changes = changed(tensors, base, p["epsilon"])
    count = counts(changes)
    unique = count == 1.0
    for change in changes:
        mine = change.ne(0.0)
        own = int(torch.count_nonzero(mine & unique))
        shared = int(torch.count_nonzero(mine)) - own
        if own:  # else there is nothing to amplify
            change.copy_(torch.where(unique, change * amplification(own, shared, p), change))
    return mean_of_changed(changes, count).add_(base)


def amplification(own: int, shared: int, p: Mapping[str, Any]) -> float:
    """Return the factor of a model's unique elements, from the numbers of these and of its shared ones."""
    return 1.0 + p["r"] * min(max(shared / max(own, p["epsilon"]), 0.0), p["alpha"]) if own else 1.0


RAMPLUS_TL = Method(
    name="ramplus_tl",
    reference=ramplus_tl,
    parameters=(
        Parameter("r", 0.1, "strength of the amplification", low=0.0, high=1.0),
        Parameter("alpha", 0.2, "largest ratio of shared to unique elements that counts", low=0.0, high=1.0, least=0.0),
        EPSILON,
    ),
    base="required",
    inputs=(1, None),
    differentiable=False,
    invariants=("identity", "order"),
    paper="arXiv:2601.13572",
)
