"""The Karcher mean of the models' directions: the point of the sphere nearest to all (Grove and Karcher 1973)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine.methods.combination import combine, lengths
from engine.methods.method import Array, Combination, Method, Parameter, Rng

ANTIPODAL = 1e-7
"""Below this sine (of an angle near 180 degrees) there is no shortest way to a point."""


def karcher(tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng) -> torch.Tensor:
    """Return the mean length of the models times the Karcher mean of their directions, equal shares to all.

    Models no longer than `tol` take no part in the direction. The iteration runs on coefficients of the unit vectors.
    """
    return combine(COMBINATION, tensors, base, p)


def _coefficients(gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
    length, tol = lengths(gram), p["tol"]
    taking_part = np.flatnonzero(length > tol)
    c = np.zeros_like(length)
    if taking_part.size:
        long = length[taking_part]
        units = gram[np.ix_(taking_part, taking_part)] / np.outer(long, long)
        c[taking_part] = _mean_direction(units, p["max_iter"], tol) / long * length.mean()
    return [float(c_i) for c_i in c]


def _mean_direction(gram: Array, steps: int, tol: float) -> Array:
    """Return the mean's coefficients of unit vectors u_i with the dot products `gram`."""
    k = len(gram)
    m = np.full(k, 1.0 / k)
    start = _length(m, gram)
    m = m / start if start >= max(tol, ANTIPODAL) else np.eye(k)[0]
    for _ in range(steps):
        step = np.zeros(k)
        for i, cosine in enumerate(np.clip(gram @ m, -1.0, 1.0)):
            angle = math.acos(cosine)
            if angle < tol or math.sin(angle) < ANTIPODAL:
                continue
            towards = -cosine * m  # u_i - (u_i.m) m, the tangent at m
            towards[i] += 1.0
            step += angle / math.sin(angle) / k * towards
        size = _length(step, gram)
        if size < tol or size == 0.0:
            break
        m = math.cos(size) * m + math.sin(size) / size * step
        m = m / _length(m, gram)
    return m


def _length(c: Array, gram: Array) -> float:
    return math.sqrt(max(0.0, float(c @ gram @ c)))


COMBINATION = Combination("inputs", _coefficients)

KARCHER = Method(
    name="karcher",
    reference=karcher,
    parameters=(
        Parameter("max_iter", 10, "most steps of the iteration", kind=int, least=0),
        Parameter("tol", 1e-5, "length of a step at which it stops", least=0.0),
    ),
    base="ignored",
    inputs=(1, None),
    differentiable=False,
    invariants=("identity", "order", "scale"),
    paper="Grove and Karcher 1973, doi:10.1007/BF01214390",
    combination=COMBINATION,
)
