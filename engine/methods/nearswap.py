"""Swap in a model's weights where they lie near the base's (NearSwap, after alchemonaut's QuartetAnemoi)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import needed
from engine.methods.method import Method, Parameter, Rng


def nearswap(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return s X + (1 - s) B, with s = t / |X - B| clamped to [0, 1]: no element moves by more than t."""
    base, (x,) = needed(base), tensors
    share = (x - base).abs_().clamp_(min=1e-6).reciprocal_().mul_(p["t"]).clamp_(0.0, 1.0)
    return x.mul(share).add_(base.mul(1.0 - share))


NEARSWAP = Method(
    name="nearswap",
    reference=nearswap,
    parameters=(Parameter("t", None, "the most that an element moves", low=0.0, high=0.01),),
    base="required",
    inputs=(1, 1),
    differentiable=False,
    invariants=("identity",),
    paper="huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
)
