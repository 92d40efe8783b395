"""The steps that the task-arithmetic family shares: differences, sparsification, sign consensus, sum.

Symbols: B base, X_i models, delta_i = X_i - B task vectors, w_i weights, n elements of a tensor.
The definitions follow mergekit where it departs from the papers (`rescale`), so that recipes mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import RecipeError
from engine.methods.method import INT8_MASK, Parameter, Rng

SORT_BELOW = 1 << 13
"""Elements below which a sort costs no more than a selection."""
CHUNK = 1 << 20
"""Elements counted at once: bincount takes 8 bytes for each."""

Array = npt.NDArray[Any]
Sparsifier = Callable[[torch.Tensor, float, int], torch.Tensor]
"""(delta, density, source position) -> delta with elements dropped; called for 0 < density < 1 and n > 0 only."""

WEIGHT = Parameter("weight", None, "factor of the model's task vector", low=0.0, high=1.5, scope="non_base")
DENSITY = Parameter("density", 1.0, "share of the task vector's elements that is kept", 0.1, 1.0, scope="non_base")
UNUSED_DENSITY = Parameter("density", 1.0, "accepted for mergekit's sake; no effect", scope="non_base")
LAMBDA = Parameter("lambda", 1.0, "factor of the merged task vector")


def shared_parameters(*, normalize: bool, rescale: bool) -> tuple[Parameter, ...]:
    """Return the parameters of the whole family, with the defaults of one method."""
    return (
        Parameter("normalize", normalize, "divide by the sum of the weights that take part", kind=bool),
        Parameter("rescale", rescale, "restore a sparsified task vector's L1 norm", kind=bool),
        LAMBDA,
        INT8_MASK,
    )


def merge_task_vectors(
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    p: Mapping[str, Any],
    *,
    sparsify: Sparsifier | None,
    consensus: bool,
) -> torch.Tensor:
    """Return B + lambda * mix(w_i * sparsify(X_i - B))."""
    if base is None:
        raise RecipeError("task vectors are differences from a base; give base_model")
    w = p["weight"]
    weighted = []
    for i, x in enumerate(tensors):
        delta = x - base
        if sparsify is not None:
            delta = _sparsified(delta, p["density"][i], p["rescale"], i, sparsify)
        weighted.append(delta.mul_(w[i]))
    mixed = _mix_agreeing(weighted, w, p["normalize"]) if consensus else _mix(weighted, w, p["normalize"])
    if p["lambda"] != 1.0:
        mixed.mul_(p["lambda"])
    return mixed.add_(base)


def _sparsified(delta: torch.Tensor, density: float, rescale: bool, i: int, sparsify: Sparsifier) -> torch.Tensor:
    if density >= 1.0 or delta.numel() == 0:
        return delta
    if density <= 0.0:
        return torch.zeros_like(delta)
    kept = sparsify(delta, density, i)
    return match_l1(kept, delta) if rescale else kept


def match_l1(kept: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Return `kept`, scaled in place to the L1 norm of `delta`; unscaled where either norm is below 1e-7."""
    # In float64, so that the order of summation (the number of threads) hardly ever shows in the result.
    before, after = (float(x.abs().sum(dtype=torch.float64)) for x in (delta, kept))
    return kept.mul_(before / after) if before >= 1e-7 and after >= 1e-7 else kept


def _mix(weighted: list[torch.Tensor], w: Sequence[float], normalize: bool) -> torch.Tensor:
    mixed = weighted[0]
    for s in weighted[1:]:
        mixed.add_(s)
    total = sum(w)
    return mixed.div_(total) if normalize and abs(total) >= 1e-8 else mixed


def _mix_agreeing(weighted: list[torch.Tensor], w: Sequence[float], normalize: bool) -> torch.Tensor:
    """Sum the elements whose sign is that of their sum; a sum of 0 counts as +, an element of 0 takes no part.

    With sign sigma, S_i sigma > 0 says that S_i agrees. Masks are float tensors: operations on one dtype are
    several times faster in torch than those that mix in a boolean.
    """
    total = weighted[0].clone()
    for s in weighted[1:]:
        total.add_(s)
    sigma = total.lt_(0.0).mul_(-2.0).add_(1.0)
    mixed = torch.zeros_like(sigma)
    divisor = torch.zeros_like(sigma)
    for s, w_i in zip(weighted, w, strict=True):
        agreeing = s.mul_(sigma).relu_()
        mixed.add_(agreeing)
        if normalize:
            divisor.add_(agreeing.gt_(0.0), alpha=w_i)
    if normalize:
        mixed.div_(divisor.masked_fill_(divisor == 0, 1.0))
    return mixed.mul_(sigma)


def keep_largest(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Return delta with only its k = max(1, int(density n)) largest magnitudes.

    Of magnitudes equal to the smallest kept one, the first by position are kept; in small tensors those that torch's
    sort puts first, which is what mergekit does for tensors of all sizes (differences of bfloat16 have many ties).
    """
    k = max(1, int(density * delta.numel()))
    magnitude = delta.abs().flatten()
    if magnitude.numel() < SORT_BELOW:
        kept = torch.argsort(magnitude, descending=True)[:k]
        mask = torch.zeros_like(magnitude, dtype=torch.bool).index_fill_(0, kept, True)
    elif magnitude.device.type == "cpu":
        mask = torch.from_numpy(_largest(magnitude.numpy(), k))
    else:
        mask = _largest_by_topk(magnitude, k)
    return delta * mask.view(torch.uint8).to(delta.dtype).view(delta.shape)


def _largest(magnitude: Array, k: int) -> Array:
    """Return the mask of the k largest. A selection, not a sort: in numpy because torch's is ten times slower."""
    threshold = _kth_largest(magnitude, k)
    mask: Array = magnitude > threshold
    if missing := k - int(np.count_nonzero(mask)):
        mask[np.flatnonzero(magnitude == threshold)[:missing]] = True
    return mask


def _kth_largest(magnitude: Array, k: int) -> Any:
    n = magnitude.size
    if magnitude.dtype != np.float32:
        return np.partition(magnitude, n - k)[n - k]
    # Non-negative floats are ordered as their bits are: count by the upper 13, then select within one count's bits.
    bits = magnitude.view(np.uint32)
    upper = (bits >> 18).astype(np.uint16)
    counts = np.bincount(upper[:CHUNK], minlength=1 << 13)
    for i in range(CHUNK, n, CHUNK):
        counts += np.bincount(upper[i : i + CHUNK], minlength=1 << 13)
    reaching = np.cumsum(counts[::-1])
    place = int(np.searchsorted(reaching, k))
    inside = bits[upper == (1 << 13) - 1 - place]
    rank = int(reaching[place]) - k
    return np.partition(inside, rank)[rank : rank + 1].view(np.float32)[0]


def _largest_by_topk(magnitude: torch.Tensor, k: int) -> torch.Tensor:
    threshold = torch.topk(magnitude, k, sorted=False).values.min()
    mask = magnitude > threshold
    missing = k - int(mask.sum())
    mask[(magnitude == threshold).nonzero().flatten()[:missing]] = True
    return mask


def keep_random(delta: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    """Return delta with each element kept with probability `density` (DARE's drop, arXiv:2311.03099, eq. 1)."""
    # Drawn on the CPU whatever the device, so that all devices drop the same elements.
    keep = torch.rand(delta.shape, generator=generator).lt_(density)
    return delta * keep.to(delta.device)


def random_sparsifier(rng: Rng) -> Sparsifier:
    """Return DARE's sparsifier, with a generator for each source."""
    return lambda delta, density, i: keep_random(delta, density, rng(i))
