"""The steps that the task-arithmetic family shares: differences, sparsification, sign consensus, sum.

Symbols: B base, X_i models, delta_i = X_i - B task vectors, w_i weights, n elements of a tensor.
The definitions follow mergekit where it departs from the papers (`rescale`), so that recipes mean the same.

Every product and every sum is rounded by itself, in the order of the models: no fused multiply-add, so that kernels
which do the same operations element by element give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from engine.methods.combination import needed, weighted_sum
from engine.methods.draws import keep_share
from engine.methods.method import INT8_MASK, Parameter, Rng
from engine.methods.selection import below_largest, largest

Sparsifier = Callable[[torch.Tensor, int], torch.Tensor]
"""(delta, source position) -> delta with elements dropped; called for 0 < density < 1 and n > 0 only."""

WEIGHT = Parameter("weight", None, "factor of the model's task vector", low=0.0, high=1.5, scope="non_base")
DENSITY = Parameter(
    "density", 1.0, "share of the task vector's elements that is kept", 0.1, 1.0, "non_base", least=0.0, most=1.0
)
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
    sparsify: Sparsifier,
    consensus: bool,
) -> torch.Tensor:
    """Return B + lambda * mix(w_i * sparsify(X_i - B)), the mix a sum or that of the elements of the elected sign.

    `normalize` divides the sum by the weights that take part in it; without consensus those are all, and a divisor
    below 1e-8 counts as 1.
    """
    base = needed(base)
    kept, ratios = zip(*(_sparsified(x - base, p, i, sparsify) for i, x in enumerate(tensors)), strict=True)
    if not consensus:
        return weighted_sum(factors(p, ratios), kept).add_(base)
    w = p["weight"]
    terms = [delta.mul_(w_i * ratio) for delta, w_i, ratio in zip(kept, w, ratios, strict=True)]
    mixed = sum_of_agreeing(terms, w, p["normalize"])
    if p["lambda"] != 1.0:
        mixed.mul_(p["lambda"])
    return mixed.add_(base)


def factors(p: Mapping[str, Any], ratios: Sequence[float]) -> list[float]:
    """Return w_i lambda r_i, divided by sum_i w_i with `normalize`: without consensus all this is one number."""
    total = sum(p["weight"])
    divisor = total if p["normalize"] and abs(total) >= 1e-8 else 1.0
    return [w * p["lambda"] / divisor * ratio for w, ratio in zip(p["weight"], ratios, strict=True)]


def _sparsified(delta: torch.Tensor, p: Mapping[str, Any], i: int, sparsify: Sparsifier) -> tuple[torch.Tensor, float]:
    """Return what is kept of a task vector, and the factor r_i that restores its L1 norm where that is asked for."""
    density = p["density"][i]
    if density >= 1.0 or delta.numel() == 0:
        return delta, 1.0
    if density <= 0.0:
        return torch.zeros_like(delta), 1.0
    kept = sparsify(delta, i)
    if not p["rescale"]:
        return kept, 1.0
    # In float64, so that the order of summation (the number of threads) hardly ever shows in the result.
    before, after = (float(x.abs().sum(dtype=torch.float64)) for x in (delta, kept))
    return kept, l1_ratio(before, after)


def l1_ratio(before: float, after: float) -> float:
    """Return the factor between two L1 norms; 1 where either is below 1e-7."""
    return before / after if before >= 1e-7 and after >= 1e-7 else 1.0


def band(n: int, density: float, gamma: float | None) -> tuple[int, int]:
    """Return how many of n elements are dropped as the largest, and how many are kept below them.

    TIES (gamma None) keeps at least one of what it trims. Breadcrumbs drops int(gamma n) of the largest, or fewer:
    the density comes first.
    """
    if density >= 1.0:
        return 0, n
    if density <= 0.0:
        return 0, 0
    if gamma is None:
        return 0, max(1, int(density * n))
    kept = int(density * n)
    return min(int(gamma * n), n - kept), kept


def elected_sign(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sign of the sum of the terms, in their dtype: 1 or -1; a sum of 0 counts as +."""
    total = terms[0].clone()
    for s in terms[1:]:
        total.add_(s)
    return total.lt_(0.0).mul_(-2.0).add_(1.0)


def sum_of_agreeing(weighted: list[torch.Tensor], w: Sequence[float], normalize: bool) -> torch.Tensor:
    """Sum the elements whose sign is that of their sum; an element of 0 takes no part. Overwrites `weighted`.

    With sign sigma, S_i sigma > 0 says that S_i agrees. Masks are float tensors: operations on one dtype are
    several times faster in torch than those that mix in a boolean.
    """
    sigma = elected_sign(weighted)
    mixed = torch.zeros_like(sigma)
    divisor = torch.zeros_like(sigma)
    for s, w_i in zip(weighted, w, strict=True):
        agreeing = s.mul_(sigma).relu_()
        mixed.add_(agreeing)
        if normalize:
            divisor.add_(agreeing.gt_(0.0).mul_(w_i))
    if normalize:
        mixed.div_(divisor.masked_fill_(divisor == 0, 1.0))
    return mixed.mul_(sigma)


def keep_band(delta: torch.Tensor, density: float, gamma: float | None) -> torch.Tensor:
    """Return delta with the magnitudes of its `band` only; ties as in `selection`."""
    top, kept = band(delta.numel(), density, gamma)
    magnitude = delta.abs()
    return masked(delta, largest(magnitude, kept) if gamma is None else below_largest(magnitude, top, kept))


def keep_random(delta: torch.Tensor, density: float, key: int) -> torch.Tensor:
    """Return delta with each element kept with probability `density` (DARE's drop, arXiv:2311.03099, eq. 1)."""
    return masked(delta, keep_share(key, density, delta.numel(), delta.device))


def masked(delta: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return delta where the mask (of its shape, or flat in row-major order) is True, else 0."""
    return delta.masked_fill(~mask.view(delta.shape), 0.0)


def random_sparsifier(p: Mapping[str, Any], rng: Rng) -> Sparsifier:
    """Return DARE's sparsifier, with a key of its own for each source."""
    return lambda delta, i: keep_random(delta, p["density"][i], rng(i))
