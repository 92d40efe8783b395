"""How a loss changes with a recipe's weights, by the gradient of a merged tensor: dL/dp = <dL/dW, dW/dp>.

Only numbers that weigh are taken (`WEIGHTS`). What a method keeps of a task vector and the signs that it elects are
piecewise constant in them, and are held fixed; densities and thresholds have no derivative that would help. Rounding
of the merged weights counts as no change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from typing import Any, TypeAlias

import numpy as np
import torch

from engine.errors import RecipeError
from engine.execute import LARGE
from engine.job import Job
from engine.kept import Kept
from engine.methods.combination import NO_GRAM
from engine.methods.method import Array, Combination
from engine.methods.task_vectors import factors
from engine.operands import Map, Operands, flat_words

WEIGHTS = ("weight", "t", "scale", "lambda")
"""The parameters, of whatever method, that say how much is taken."""
STEP = 1e-5
"""Of the central differences of coefficients: smooth functions of a few numbers, in float64."""

Derivative: TypeAlias = "dict[str, tuple[float, ...]]"
"""Parameter -> its derivative for each input, in the job's order; a single one of a shared parameter."""


def derivative(job: Job, gradient: torch.Tensor, *, kept: Kept | None = None) -> Derivative:
    """Return the derivatives of a loss by the job's weights; `gradient` (the job's shape) is that by its result.

    Nothing of `gradient` is changed. `kept` serves all candidates over the same models, as in merging. Raises
    RecipeError where the job's method bears none, CheckpointError where an input cannot be read.
    """
    method = job.method
    if method is None:
        return {}
    if not method.differentiable:
        raise RecipeError(f"{job.name}: {method.name} has no derivative by its parameters; search it without slopes")
    operands = Operands(job, _over(job), kept)
    words = flat_words(gradient.detach().to("cpu"))
    if method.combination is None:
        return _of_sparsified(operands, words)
    if not method.combination.whole(job.parameters):
        raise RecipeError(f"{job.name}: {method.name} has a derivative only where it weighs whole tensors")
    return _of_combination(operands, method.combination, words)


def _of_combination(operands: Operands, combination: Combination, g: Array) -> Derivative:
    """dL/dp = sum_i <G, V_i> dc_i/dp, where W = sum_i c_i V_i."""
    from engine.kernels.slopes import add_dots  # numba takes half a second to load
    from engine.kernels.weighted_sum import gram_of

    with_base = combination.of == "base and inputs"
    deltas = combination.of == "deltas" and operands.base is not None

    def dots(begin: int, end: int) -> Array:
        xs = operands.all_words(begin, end) if with_base else operands.words(begin, end)
        sums = np.zeros(len(xs))
        add_dots(operands.base_words(begin, end) if deltas else None, xs, g[begin:end], sums)
        return sums

    gram = gram_of(operands, combination) if combination.gram else NO_GRAM
    return _chained(operands, lambda p: combination.weigh(gram, p), _total(operands, dots))


def _of_sparsified(operands: Operands, g: Array) -> Derivative:
    """The derivatives of B + lambda * mix(w_i r_i kept(X_i - B)); see `merge_task_vectors`."""
    from engine.kernels.slopes import add_agreeing_dots, add_kept_dots
    from engine.kernels.sparsified import norm_ratio
    from engine.kernels.table import SELECTIONS

    job = operands.job
    p, name = job.parameters, str(job.method and job.method.name)
    selection = SELECTIONS[name](operands, p, job.key)
    if selection is None:
        raise RecipeError(f"{job.name}: {name} has a derivative for matrices and up to 8 sources only")
    k = len(job.inputs)
    ratios = [norm_ratio(operands, p, selection, i) for i in range(k)]
    consensus = job.method is not None and job.method.consensus
    some = [True] * k if selection.some is None else list(selection.some)
    places = [*compress(range(k), some), *([k] if consensus else [])]
    if not any(some):
        return _zeros(operands)
    w, r = (tuple(np.float32(x) for x in compress(numbers, some)) for numbers in (p["weight"], ratios))

    def dots(begin: int, end: int) -> Array:
        base, xs = operands.base_words(begin, end), operands.words(begin, end, some)
        sums = np.zeros(len(places))
        for first, last in selection.parts(begin, end):
            own = slice(first - begin, last - begin)
            rules, start = selection.rules(first, last), np.uint32(first & 0xFFFFFFFF)
            rules = tuple(compress(rules, some)) if isinstance(rules, tuple) else rules
            here = (base[own], tuple(x[own] for x in xs), g[first:last])
            if consensus:
                add_agreeing_dots(*here, w, r, rules, start, bool(p["normalize"]), sums)
            else:
                add_kept_dots(*here, rules, start, sums)
        return sums

    sums = np.zeros(k + 1)
    sums[places] = _total(operands, dots)
    if not consensus:
        return _chained(operands, lambda p: factors(p, ratios), sums[:k])
    return {"weight": tuple(float(p["lambda"] * s) for s in sums[:k]), "lambda": (float(sums[k]),)}


def _total(operands: Operands, dots: Callable[[int, int], Array]) -> Array:
    """The sum over all pieces, in their order."""
    total: Array = np.sum(operands.map(dots), axis=0)
    return total


def _chained(
    operands: Operands, coefficients: Callable[[Mapping[str, Any]], Sequence[float]], dots: Array
) -> Derivative:
    """sum_i dots_i dc_i/dp for every weight p."""
    p = operands.job.parameters

    def slope(name: str, place: int | None) -> float:
        up, down = (np.array(coefficients({**p, name: _moved(p[name], place, step)})) for step in (STEP, -STEP))
        return float((up - down) @ dots / (2 * STEP))

    found: Derivative = {}
    for name in _weights(operands.job):
        value = p[name]
        places: list[int | None] = [*range(len(value))] if isinstance(value, tuple) else [None]
        found[name] = tuple(slope(name, place) for place in places)
    return found


def _weights(job: Job) -> list[str]:
    """The weights that the job's recipe gives a number."""
    given = job.parameters
    return [
        name
        for name in WEIGHTS
        if name in given and None not in (given[name] if isinstance(given[name], tuple) else (given[name],))
    ]


def _moved(value: Any, place: int | None, step: float) -> Any:
    if place is None:
        return value + step
    return tuple(each + step * (index == place) for index, each in enumerate(value))


def _zeros(operands: Operands) -> Derivative:
    p = operands.job.parameters
    return {name: (0.0,) * (len(p[name]) if isinstance(p[name], tuple) else 1) for name in _weights(operands.job)}


def _over(job: Job) -> Map:
    """How pieces are gone through: on as many threads as torch is set to use where the tensor is large."""
    threads = torch.get_num_threads()

    def one_by_one(function: Callable[[int, int], Any], pieces: Sequence[tuple[int, int]]) -> list[Any]:
        return [function(*piece) for piece in pieces]

    def side_by_side(function: Callable[[int, int], Any], pieces: Sequence[tuple[int, int]]) -> list[Any]:
        with ThreadPoolExecutor(threads, thread_name_prefix="slopes") as pool:
            return list(pool.map(lambda piece: function(*piece), pieces))

    return side_by_side if threads > 1 and job.size >= LARGE else one_by_one
