"""Model Stock: move from the base towards the models' mean as far as their angles say (Jang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine.methods.combination import combine, lengths, needed, row_grams, rows_of, weighted_sum
from engine.methods.method import Array, Combination, Method, Parameter, Rng


def model_stock(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
) -> torch.Tensor:
    """Return B + t mean_i(X_i - B), t = k c / (1 + (k - 1) c), c the mean cosine between two task vectors (eq. 7).

    The angles are those of whole tensors, or with `filter_wise` those of rows (along the last dimension). t is not
    clamped: task vectors that point apart give a t outside of [0, 1].
    """
    if not p["filter_wise"] or tensors[0].ndim == 0:
        return combine(COMBINATION, tensors, base, p)
    base = needed(base)
    deltas = [x - base for x in tensors]
    c = rows_of([_share(row_grams(deltas))] * len(deltas), deltas[0])
    return weighted_sum(c, deltas).add_(base)


@np.errstate(invalid="ignore")  # rows that are not finite give NaN
def _share(gram: Array) -> Array:
    """Return t / k for every Gram matrix, shape (..., k, k)."""
    k = gram.shape[-1]
    length = lengths(gram)
    first, second = np.triu_indices(k, 1)
    product = np.maximum(length[..., first] * length[..., second], 1e-6)
    cosine = np.clip(gram[..., first, second] / product, -1.0, 1.0).mean(-1)
    divisor = 1.0 + (k - 1) * cosine
    apart = np.abs(divisor) < 1e-6
    share: Array = np.where(apart, 0.0, cosine / np.where(apart, 1.0, divisor))
    return share


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    return [float(_share(gram))] * len(gram)


COMBINATION = Combination("deltas", _coefficients, whole=lambda p: not p["filter_wise"])

MODEL_STOCK = Method(
    name="model_stock",
    reference=model_stock,
    parameters=(Parameter("filter_wise", False, "an angle for every row instead of one for the tensor", kind=bool),),
    base="required",
    inputs=(2, None),
    differentiable=False,
    invariants=("identity", "order", "scale"),
    paper="arXiv:2403.19522",
    combination=COMBINATION,
)
