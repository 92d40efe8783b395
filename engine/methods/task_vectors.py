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
from engine.methods.selection import largest

SORT_BELOW = 1 << 13
"""Elements below which a sort costs no more than a selection."""

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
    deltas = [_sparsified(x - base, p, i, sparsify) for i, x in enumerate(tensors)]
    if not consensus:
        return weighted_sum(factors(p), deltas).add_(base)
    w = p["weight"]
    mixed = sum_of_agreeing([delta.mul_(w_i) for delta, w_i in zip(deltas, w, strict=True)], w, p["normalize"])
    if p["lambda"] != 1.0:
        mixed.mul_(p["lambda"])
    return mixed.add_(base)


def factors(p: Mapping[str, Any]) -> list[float]:
    """Return w_i lambda, or w_i lambda / sum_i w_i with `normalize`: without consensus all this is one number."""
    total = sum(p["weight"])
    divisor = total if p["normalize"] and abs(total) >= 1e-8 else 1.0
    return [w * p["lambda"] / divisor for w in p["weight"]]


def _sparsified(delta: torch.Tensor, p: Mapping[str, Any], i: int, sparsify: Sparsifier) -> torch.Tensor:
    density = p["density"][i]
    if density >= 1.0 or delta.numel() == 0:
        return delta
    if density <= 0.0:
        return torch.zeros_like(delta)
    kept = sparsify(delta, i)
    return match_l1(kept, delta) if p["rescale"] else kept


def match_l1(kept: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Return `kept`, scaled in place to the L1 norm of `delta`; unscaled where either norm is below 1e-7."""
    # In float64, so that the order of summation (the number of threads) hardly ever shows in the result.
    before, after = (float(x.abs().sum(dtype=torch.float64)) for x in (delta, kept))
    return kept.mul_(before / after) if before >= 1e-7 and after >= 1e-7 else kept


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


def keep_largest(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Return delta with only its k = max(1, int(density n)) largest magnitudes.

    Ties go to the first by position (see `selection`); in small tensors to those that torch's sort puts first, which
    is what mergekit does for tensors of all sizes (differences of bfloat16 have many ties).
    """
    n = delta.numel()
    k = max(1, int(density * n))
    magnitude = delta.abs()
    if n >= SORT_BELOW:
        return masked(delta, largest(magnitude, k))
    kept = torch.argsort(magnitude.flatten(), descending=True)[:k]
    return masked(delta, torch.zeros(n, dtype=torch.bool, device=delta.device).index_fill_(0, kept, True))


def keep_random(delta: torch.Tensor, density: float, key: int) -> torch.Tensor:
    """Return delta with each element kept with probability `density` (DARE's drop, arXiv:2311.03099, eq. 1)."""
    return masked(delta, keep_share(key, density, delta.numel(), delta.device))


def masked(delta: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return delta where the mask (of its shape, or flat in row-major order) is True, else 0."""
    return delta.masked_fill(~mask.view(delta.shape), 0.0)


def random_sparsifier(p: Mapping[str, Any], rng: Rng) -> Sparsifier:
    """Return DARE's sparsifier, with a key of its own for each source."""
    return lambda delta, i: keep_random(delta, p["density"][i], rng(i))
