"""Keeping the largest: exact counts, with one rule for equal values.

An element's rank is by (value, position), and of equal values the one with the *earlier* position ranks higher. So the
k largest contain the first of those that equal the smallest kept one, in TIES, breadcrumbs, SCE and DELLA alike.
Positions are flat, in row-major order.

Tensors below `SORT_BELOW` elements are the exception in TIES, breadcrumbs and SCE: there equal values are ranked as
torch's sort on the CPU happens to leave them, which is what mergekit does for tensors of all sizes. Differences of
bfloat16 tensors have so many equal magnitudes that small merges would visibly differ from mergekit's by the rule above.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from engine.methods.method import Array

CHUNK = 1 << 20
"""Elements counted at once: bincount takes 8 bytes for each."""


SORT_BELOW = 1 << 13
"""Elements below which a sort costs no more than a selection."""


def largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Return the mask of the k largest of non-negative `values`, of their shape; exactly k are True (0 <= k <= n)."""
    flat = values.flatten()
    n = flat.numel()
    if k <= 0 or k >= n:
        return torch.full_like(values, k > 0, dtype=torch.bool)
    if n < SORT_BELOW:
        return _places(torch.argsort(flat.cpu(), descending=True)[:k], values)
    mask = torch.from_numpy(_largest(flat.numpy(), k)) if flat.device.type == "cpu" else _largest_by_topk(flat, k)
    return mask.view(values.shape)


def below_largest(values: torch.Tensor, top: int, k: int) -> torch.Tensor:
    """Return the mask of the k largest of non-negative `values` that are not among the `top` largest."""
    n = values.numel()
    if n < SORT_BELOW:
        return _places(torch.argsort(values.flatten().cpu())[n - top - k : n - top], values)
    return largest(values, top + k) & ~largest(values, top)


def _places(places: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(like.numel(), dtype=torch.bool).index_fill_(0, places, True)
    return mask.view(like.shape).to(like.device)


def _largest(values: Array, k: int) -> Array:
    """A selection, not a sort: in numpy because torch's is ten times slower."""
    threshold = kth_largest(values, k)
    mask: Array = values > threshold
    if missing := k - int(np.count_nonzero(mask)):
        mask[np.flatnonzero(values == threshold)[:missing]] = True
    return mask


def kth_largest(values: Array, k: int) -> Any:
    """Return the k-th largest of non-negative `values`, shape (n,), 1 <= k <= n."""
    n = values.size
    if values.dtype != np.float32:
        return np.partition(values, n - k)[n - k]
    # Non-negative floats are ordered as their bits are: count by the upper 13, then select within one count's bits.
    bits = values.view(np.uint32)
    upper = (bits >> 18).astype(np.uint16)
    counts = np.bincount(upper[:CHUNK], minlength=1 << 13)
    for i in range(CHUNK, n, CHUNK):
        counts += np.bincount(upper[i : i + CHUNK], minlength=1 << 13)
    reaching = np.cumsum(counts[::-1])
    place = int(np.searchsorted(reaching, k))
    inside = bits[upper == (1 << 13) - 1 - place]
    rank = int(reaching[place]) - k
    return np.partition(inside, rank)[rank : rank + 1].view(np.float32)[0]


def _largest_by_topk(values: torch.Tensor, k: int) -> torch.Tensor:
    threshold = torch.topk(values, k, sorted=False).values.min()
    mask = values > threshold
    missing = k - int(mask.sum())
    mask[(values == threshold).nonzero().flatten()[:missing]] = True
    return mask


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Return every element's rank in its row (dimension 1 of `values`), 0 for the smallest; int64, same shape."""
    descending = torch.argsort(values, dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1] - 1, -1, -1, device=values.device)
    places = places.view(1, -1, *[1] * (values.ndim - 2)).expand_as(descending)
    return torch.empty_like(descending).scatter_(1, descending, places)


def order_statistics(values: torch.Tensor, places: list[int]) -> list[float]:
    """Return the elements of the ascending order at `places`, each from 0 to n - 1."""
    flat = values.flatten()
    if flat.device.type == "cpu":
        parted = np.partition(flat.numpy(), places)
        return [float(parted[place]) for place in places]
    return [float(torch.kthvalue(flat, place + 1).values) for place in places]
