"""The kernels of the task-arithmetic family: what is kept of each task vector, its factor, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeAlias

import numpy as np

from engine.kernels.kernel import Kernel, Merge, floats
from engine.kernels.task_vectors import l1_sums, sum_agreeing, sum_band, sum_kept
from engine.kernels.weighted_sum import sum_deltas
from engine.methods.draws import LOW, TWO32, upper_word
from engine.methods.method import Array, Rng
from engine.methods.task_vectors import factors, l1_ratio
from engine.operands import Operands, between


@dataclass(frozen=True)
class Selection:
    """What is kept of the task vectors.

    `rules(begin, end)` returns what `engine.kernels.task_vectors` wants, one rule a source, or the masks of all, for a
    part of the tensor that none of the positions in `cuts` lies inside of. `some` says of which sources anything is
    kept; the others need not be read (None: of all). `band` says the same as `rules` in the way of `sum_band`, of
    those sources.
    """

    rules: Callable[[int, int], Any]
    cuts: Sequence[int] = ()
    some: Sequence[bool] | None = None
    band: Any = None

    def parts(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return [begin, end) in parts for which `rules` may be asked."""
        return list(between(begin, end, self.cuts))

    def rule(self, i: int, begin: int, end: int) -> Any:
        """Return what `rules` says of source i alone."""
        rules = self.rules(begin, end)
        return rules >> np.uint8(i) if isinstance(rules, np.ndarray) else (rules[i],)


Select: TypeAlias = "Callable[[Operands, Mapping[str, Any], Rng], Selection | None]"
"""Says what a method keeps of the task vectors; None where only its reference can."""


def summing(select: Select, *, consensus: bool) -> Kernel:
    """Return the kernel of a method that sums what `select` keeps, with or without the election of signs."""

    def kernel(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Merge | None:
        selection = select(operands, p, rng)
        return None if selection is None else summed(operands, p, selection, consensus=consensus)

    return kernel


def drawn(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Selection:
    """Return what DARE keeps: elements drawn at random."""
    keys = [rng(i) for i in range(len(p["density"]))]
    some = [density > 0.0 for density in p["density"]]  # no last word says "never"
    last = [max(0, int(np.ceil(min(density, 1.0) * TWO32)) - 1) for density in p["density"]]

    def rules(begin: int, end: int) -> Any:
        return tuple(
            (np.uint32(key & LOW), np.uint32(upper_word(key, begin)), np.uint32(last_i))
            for key, last_i in zip(keys, last, strict=True)
        )

    return Selection(rules, range(1 << 32, operands.size, 1 << 32), some)


def summed(operands: Operands, p: Mapping[str, Any], selection: Selection, *, consensus: bool) -> Merge:
    """Return how pieces of base + the sum of what is kept of the task vectors are merged."""
    ratios = [norm_ratio(operands, p, selection, i) for i in range(len(operands.inputs))]
    w = floats(p["weight"])
    c = floats(
        [w_i * ratio for w_i, ratio in zip(p["weight"], ratios, strict=True)] if consensus else factors(p, ratios)
    )
    (factor,) = floats([p["lambda"]])

    some = [True] * len(c) if selection.some is None else selection.some
    if not any(some):

        def merge_nothing(begin: int, end: int, out: Array) -> bool:
            base = operands.base_words(begin, end)
            return bool(sum_deltas(base, (base,), floats([0.0]), out))  # -0 + 0 is 0, as in the reference

        return merge_nothing
    c, w = tuple(compress(c, some)), tuple(compress(w, some))

    def merge(begin: int, end: int, out: Array) -> bool:
        base, xs = operands.base_words(begin, end), operands.words(begin, end, some)
        if selection.band is not None:
            return bool(sum_band(base, xs, c, w, selection.band, begin, factor, p["normalize"], consensus, out))
        finite = True
        for first, last in selection.parts(begin, end):
            part = slice(first - begin, last - begin)
            own = tuple(x[part] for x in xs)
            rules, start = selection.rules(first, last), np.uint32(first & LOW)
            if isinstance(rules, tuple):
                rules = tuple(compress(rules, some))
            if consensus:
                finite &= sum_agreeing(base[part], own, c, w, rules, start, factor, p["normalize"], out[part])
            else:
                finite &= sum_kept(base[part], own, c, rules, start, out[part])
        return bool(finite)

    return merge


def norm_ratio(operands: Operands, p: Mapping[str, Any], selection: Selection, i: int) -> float:
    """Return the factor that restores the L1 norm of source i's task vector, where the recipe asks for it."""
    if not p["rescale"] or not 0.0 < p["density"][i] < 1.0:
        return 1.0

    def sums(begin: int, end: int) -> Array:
        base, x = operands.base_words(begin, end), operands.inputs[i].words(begin, end)
        total = np.zeros(2)
        for first, last in selection.parts(begin, end):
            part = slice(first - begin, last - begin)
            total += l1_sums(base[part], x[part], selection.rule(i, first, last), np.uint32(first & LOW))
        return total

    before, after = np.sum(operands.map(sums), axis=0)
    return l1_ratio(float(before), float(after))
