"""Drop small elements of the task vectors more often than large ones, then elect signs (DELLA; Deep et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.errors import RecipeError
from engine.methods.draws import keep
from engine.methods.method import Method, Parameter, Rng
from engine.methods.selection import ranks
from engine.methods.task_vectors import WEIGHT, Sparsifier, masked, merge_task_vectors, shared_parameters

EPSILON = Parameter(
    "epsilon", 0.15, "half the spread of the probabilities to keep around `density`", scope="non_base", least=0.0
)
MARGINAL_DENSITY = Parameter(
    "density", 1.0, "mean probability of keeping an element", 0.2, 0.8, "non_base", least=0.0, most=1.0
)
"""Bounded so that density - epsilon and density + epsilon are probabilities with the default epsilon."""
CHUNK = 1 << 20
"""Elements whose ranks and probabilities are held at once, unless one row has more."""


def della(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Drop by rank of magnitude, restore the L1 norm if `rescale`, then average what agrees with the elected sign."""
    return merge_task_vectors(tensors, base, p, sparsify=magnitude_sparsifier("della", p, rng), consensus=True)


def magnitude_sparsifier(method: str, p: Mapping[str, Any], rng: Rng) -> Sparsifier:
    """Return MagPrune (section 3.1): drop an element of rank r in its row with probability 1 - p_r."""

    def sparsify(delta: torch.Tensor, i: int) -> torch.Tensor:
        density, epsilon = p["density"][i], p["epsilon"][i]
        check_probabilities(method, density, epsilon)
        return keep_by_rank(delta, density, epsilon, rng(i))

    return sparsify


def check_probabilities(method: str, density: float, epsilon: float) -> None:
    """Raise RecipeError where density - epsilon or density + epsilon is no probability."""
    if not (density - epsilon > 0.0 and density + epsilon < 1.0):
        raise RecipeError(
            f"{method}: density {density:g} with epsilon {epsilon:g} gives probabilities outside of 0 to 1; "
            f"give a density between {epsilon:g} and {1.0 - epsilon:g}, 0, 1, or a smaller epsilon"
        )


def probability(n: int, density: float, epsilon: float) -> tuple[float, float, float]:
    """Return (a, b, c) so that an element of rank r, 0 the smallest of n, is kept with probability a r / b + c."""
    return (0.0, 1.0, density) if n == 1 else (2.0 * epsilon, float(n - 1), density - epsilon)


def keep_by_rank(delta: torch.Tensor, density: float, epsilon: float, key: int) -> torch.Tensor:
    """Return delta, an element of rank r (0 the smallest of n in its row) kept with the probability p_r.

    p_r = (density - epsilon) + 2 epsilon r / (n - 1), or density where n = 1. A row runs along dimension 1, as in
    mergekit; a vector is one row.
    """
    rows = delta.reshape(1, -1) if delta.ndim < 2 else delta
    size = math.prod(rows.shape[1:])
    step = max(1, CHUNK // max(1, size))
    factor, divisor, least = probability(rows.shape[1], density, epsilon)
    mask = torch.empty(rows.shape, dtype=torch.bool, device=delta.device)
    for first in range(0, rows.shape[0], step):
        part = rows[first : first + step]
        chance = ranks(part.abs()).to(torch.float64).mul_(factor).div_(divisor).add_(least)
        mask[first : first + step] = keep(key, first * size, chance)
    return masked(delta, mask)


DELLA = Method(
    name="della",
    reference=della,
    parameters=(WEIGHT, MARGINAL_DENSITY, EPSILON, *shared_parameters(normalize=True, rescale=True)),
    base="required",
    inputs=(1, None),
    differentiable=True,
    invariants=("identity", "scale"),
    paper="arXiv:2406.11617",
    sparsified="consensus",
)
