"""One model's tensors as they are, for stacking layers of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.methods.method import INT8_MASK, Array, Combination, Method, Parameter, Rng


def passthrough(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return X, or X * scale."""
    scale = p["scale"][0]
    return tensors[0] if scale is None else tensors[0] * scale


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    return [1.0 if scale is None else scale for scale in p["scale"]]


PASSTHROUGH = Method(
    name="passthrough",
    reference=passthrough,
    parameters=(
        Parameter("scale", None, "factor of the tensor", scope="input", optional=True),
        INT8_MASK,
    ),
    base="ignored",
    inputs=(1, 1),
    differentiable=True,
    invariants=("identity", "scale"),
    paper="SOLAR's depth up-scaling, arXiv:2312.15166",
    combination=Combination("inputs", _coefficients, gram=False),
)
