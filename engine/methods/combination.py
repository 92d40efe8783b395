"""Weighing whole tensors: what the methods share that return a linear combination of tensors.

The spherical methods need angles and lengths only, which the Gram matrix holds: their formulas run on a few numbers,
and the tensors are read once to get that matrix and once to be summed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine.errors import RecipeError
from engine.methods.method import Array, Combination

CHUNK = 1 << 18
"""Elements of each tensor that are multiplied at once, in float64."""
NO_GRAM: Array = np.zeros((0, 0))


def combine(
    combination: Combination, tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any]
) -> torch.Tensor:
    """Return sum_i c_i V_i, or B + sum_i c_i (X_i - B); see `Combination`."""
    if combination.of == "base and inputs":
        vectors = [needed(base), *tensors]
    elif combination.of == "deltas" and base is not None:
        vectors = [x - base for x in tensors]
    else:
        vectors = list(tensors)
    c = combination.weigh(gram_matrix(vectors) if combination.gram else NO_GRAM, p)
    merged = weighted_sum(c, vectors)
    return merged.add_(base) if combination.of == "deltas" and base is not None else merged


def needed(base: torch.Tensor | None) -> torch.Tensor:
    """Return the base. Raises RecipeError where there is none."""
    if base is None:
        raise RecipeError("the method needs a base_model; add it")
    return base


def gram_matrix(vectors: Sequence[torch.Tensor]) -> Array:
    """Return the dot products over all elements, shape (m, m), summed in float64."""
    m = len(vectors)
    gram = np.zeros((m, m))
    flat = [vector.reshape(-1) for vector in vectors]
    for start in range(0, flat[0].numel(), CHUNK):
        part = torch.stack([x[start : start + CHUNK].to(torch.float64) for x in flat])
        gram += (part @ part.T).cpu().numpy()
    return gram


def row_grams(vectors: Sequence[torch.Tensor]) -> Array:
    """Return the dot products along the last dimension, shape (*rows, m, m), summed in float64."""
    m = len(vectors)
    gram = np.zeros((*vectors[0].shape[:-1], m, m))
    for i in range(m):
        for j in range(i, m):
            product = vectors[i].to(torch.float64) * vectors[j].to(torch.float64)
            gram[..., i, j] = gram[..., j, i] = product.sum(-1).cpu().numpy()
    return gram


def weighted_sum(c: Sequence[float | torch.Tensor], vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return c_1 V_1 + c_2 V_2 + ..., in this order, every product and every sum rounded."""
    merged = vectors[0].mul(c[0])
    for c_i, vector in zip(c[1:], vectors[1:], strict=True):
        merged.add_(vector.mul(c_i))
    return merged


def rows_of(c: Sequence[Array], like: torch.Tensor) -> list[torch.Tensor]:
    """Return each c_i, one number for every row of `like`, as a tensor (*rows, 1) of its dtype and device."""
    return [torch.from_numpy(np.asarray(c_i)).to(like.device, like.dtype).unsqueeze(-1) for c_i in c]


def lengths(gram: Array) -> Array:
    """Return |V_i|, shape (..., m)."""
    length: Array = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 0.0))
    return length


def share(weights: Sequence[float], method: str, switch: str) -> list[float]:
    """Return w_i / sum_i w_i. Raises RecipeError, which names the parameter that turns this off, for a sum of 0."""
    total = sum(weights)
    if abs(total) < 1e-12:
        raise RecipeError(f"{method}: the weights {list(weights)} sum to 0; change them or set {switch}: false")
    return [w / total for w in weights]
