"""Inner products of a gradient G = dL/dW with what a merge weighs: all that its weights' derivatives need.

Products are summed in float64. `g` are the words of G, as those of the inputs are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from engine.kernels.task_vectors import ONE, ZERO, kept
from engine.kernels.weighted_sum import LANES, total
from engine.kernels.words import BLOCK, SIGN, bits, compiled, load, part, real, value


@compiled
def add_dots(base: Any, xs: Any, g: Any, sums: Any) -> None:
    """Add <G, x_i> to sums[i], or <G, x_i - base> where there is a base."""
    for i in range(len(xs)):
        sums[i] += _dot(base, xs[i], g)


@compiled
def _dot(base: Any, x: Any, g: Any) -> float:
    sums = np.zeros(LANES)
    n = x.shape[0]
    for begin in range(0, n, LANES):
        own_base, own_x = part(base, begin, begin + LANES), part(x, begin, begin + LANES)
        own_g = part(g, begin, begin + LANES)
        for lane in range(own_x.shape[0]):
            sums[lane] += np.float64(value(own_base, own_x, lane)) * np.float64(load(own_g, lane))
    return sums.sum()


@compiled
def add_kept_dots(base: Any, xs: Any, g: Any, rules: Any, start: Any, sums: Any) -> None:
    """Add <G, kept(x_i - base)> to sums[i]. `rules` and `start` as in `engine.kernels.task_vectors`."""
    delta, slope = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for begin in range(0, g.shape[0], BLOCK):
        n = min(BLOCK, g.shape[0] - begin)
        _widen(g[begin : begin + n], slope)
        for i in range(len(xs)):
            _keep(base[begin : begin + n], xs[i][begin : begin + n], rule_of(rules, i, begin), start, begin, ONE, delta)
            for j in range(n):
                delta[j] *= slope[j]
            sums[i] += total(delta[:n])


@compiled
def add_agreeing_dots(
    base: Any, xs: Any, g: Any, w: Any, r: Any, rules: Any, start: Any, divided: bool, sums: Any
) -> None:
    """Add the derivatives of <G, M> for the mix M of `sum_agreeing`: by w_i to sums[i], and <G, M> to the last one.

    With A the sources that agree at an element, D their sum of w_i (1 unless `divided`) and delta_i what is kept of
    x_i - base, M = sum_A w_i r_i delta_i / D, so that by w_i it is 1_A(i) (r_i delta_i - M) / D, without the M unless
    `divided`. The elected signs are held fixed. At w_i = 0 it is the derivative from above.
    """
    m = len(xs)
    delta, agreeing = np.empty((m, BLOCK), np.float32), np.empty((m, BLOCK), np.float32)
    slope, elected, mixed = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    divisor = np.empty(BLOCK, np.float32)
    for begin in range(0, g.shape[0], BLOCK):
        n = min(BLOCK, g.shape[0] - begin)
        _widen(g[begin : begin + n], slope)
        elected[:], mixed[:], divisor[:] = ZERO, ZERO, ZERO
        for i in range(m):
            rule = rule_of(rules, i, begin)
            _keep(base[begin : begin + n], xs[i][begin : begin + n], rule, start, begin, r[i], delta[i])
            for j in range(n):
                elected[j] += delta[i, j] * w[i]
        for i in range(m):
            _agree(delta[i], w[i], elected, agreeing[i])
            for j in range(n):
                mixed[j] += agreeing[i, j] * (delta[i, j] * w[i])
                divisor[j] += agreeing[i, j] * w[i]
        for j in range(n):
            d = divisor[j] if divided else ONE
            slope[j] /= ONE if d == ZERO else d
            divisor[j] = mixed[j] / (ONE if d == ZERO else d) if divided else ZERO  # what a share takes from the rest
            mixed[j] *= slope[j]
        sums[m] += total(mixed[:n])
        for i in range(m):
            for j in range(n):
                delta[i, j] = agreeing[i, j] * (slope[j] * (delta[i, j] - divisor[j]))
            sums[i] += total(delta[i, :n])


@compiled
def _widen(words: Any, out: Any) -> None:
    for j in range(words.shape[0]):
        out[j] = load(words, j)


@compiled
def _keep(base: Any, x: Any, rule: Any, start: Any, begin: int, factor: Any, out: Any) -> None:
    own_start = np.uint32(start + np.uint32(begin))
    for j in range(base.shape[0]):
        delta = load(x, j) - load(base, j)
        out[j] = (delta if kept(rule, 0, own_start, j, delta) else ZERO) * factor


@compiled
def _agree(delta: Any, weight: Any, elected: Any, out: Any) -> None:
    """Set out to 1 where the weighted delta has the elected sign, a sum of 0 counting as positive, else to 0.

    What has no weight has the delta's own sign; where nobody has elected one, it would do so itself.
    """
    sign = np.uint32(0) if weight >= ZERO else SIGN
    alone = weight == ZERO
    for j in range(delta.shape[0]):
        down = SIGN if elected[j] < ZERO else np.uint32(0)
        free = alone & (elected[j] == ZERO) & (delta[j] != ZERO)
        out[j] = ONE if free | (real(np.uint32(bits(delta[j]) ^ sign ^ down)) > ZERO) else ZERO


def rule_of(rules: Any, i: int, begin: int) -> Any:
    """Return what says of source i alone what is kept of it, from `begin` on."""
    raise NotImplementedError("only inside compiled loops")


@overload(rule_of, strict=False)
def _rule_of(rules: Any, i: Any, begin: Any) -> Any:
    if isinstance(rules, types.Array):
        return lambda rules, i, begin: rules[begin : begin + BLOCK] >> np.uint8(i)
    return lambda rules, i, begin: (rules[i],)
