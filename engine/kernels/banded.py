"""What TIES and breadcrumbs keep: a band of the order of magnitudes is kept of each task vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch

from engine.kernels.counting import exact_cuts
from engine.kernels.magnitudes import ALL, INFINITY, NONE, Cut, Magnitudes, Values, count
from engine.kernels.sparsified import Selection
from engine.methods.method import Array, Rng
from engine.methods.selection import SORT_BELOW
from engine.methods.task_vectors import band
from engine.operands import MOST_MASKS, Operands, widened


def banded(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Selection | None:
    """Return what a method keeps that keeps a band."""
    gammas = p.get("gamma")
    bands = [band(operands.size, density, gammas[i] if gammas else None) for i, density in enumerate(p["density"])]
    if operands.size >= SORT_BELOW:
        return _selection(operands, bands)
    if len(bands) > MOST_MASKS:
        return None
    masks = _sorted_masks(operands, bands, ascending=gammas is not None)
    return Selection(lambda begin, end: masks[begin:end])


def _selection(operands: Operands, bands: Sequence[tuple[int, int]]) -> Selection:
    lower = _cuts(operands, [top + kept if kept else 0 for top, kept in bands])
    upper = _cuts(operands, [top if kept else 0 for top, kept in bands])
    some = [cut is not NONE for cut in lower]
    bounded = any(cut is not NONE for cut in upper)

    def rules(begin: int, end: int) -> Any:
        low = [cut.least(begin) for cut in lower]
        return tuple(zip(low, [cut.least(begin) for cut in upper], strict=True)) if bounded else tuple(zip(low))

    low, high = (tuple(tuple(cut) for cut in compress(cuts, some)) for cuts in (lower, upper))
    like = (np.float32(0),) * (2 if bounded else 1)
    limits = (low, high, (like,) * len(low))
    return Selection(rules, [cut.position for cut in (*lower, *upper)], some, limits)


def _cuts(operands: Operands, ks: Sequence[int]) -> list[Cut]:
    """Return where the ks[i] largest of each source's task vector end; NONE also where it is 0 everywhere."""
    cuts = [ALL if k else NONE for k in ks]
    wanted = [0 < k < operands.size for k in ks]
    tables = {i: _table(operands, i) for i, needed in enumerate(wanted) if needed}
    one_call = len(operands.pieces) == 1 and not any(table.buckets for table in tables.values())
    if one_call and tables:
        found = _in_one_call(operands, tables, ks, wanted)
    else:
        found = [table.cut(ks[i], _values(operands, i)) for i, table in tables.items()]
    for i, cut in zip(tables, found, strict=True):
        cuts[i] = NONE if tables[i].all_zero else cut
    return cuts


def _table(operands: Operands, i: int) -> Magnitudes:
    return operands.once("magnitudes", [operands.base, operands.inputs[i]], lambda: count(_values(operands, i)))


def _values(operands: Operands, i: int) -> Values:
    source = operands.inputs[i]
    return Values(lambda b, e: (operands.base_words(b, e), source.words(b, e)), operands.pieces, operands.over)


def _in_one_call(
    operands: Operands, tables: Mapping[int, Magnitudes], ks: Sequence[int], wanted: Sequence[bool]
) -> list[Cut]:
    found = np.empty((len(tables), 2), np.int64)
    words, reaching = zip(*((table.words, table.reaching) for table in tables.values()), strict=True)
    base, xs = operands.base_words(0, operands.size), operands.words(0, operands.size, wanted)
    exact_cuts(words, reaching, np.array(list(compress(ks, wanted))), base, xs, found)
    magnitudes = found[:, 0].astype(np.uint32).view(np.float32)
    above = np.nextafter(magnitudes, INFINITY)
    return [Cut(*cut) for cut in zip(magnitudes, above, found[:, 1].tolist(), strict=True)]


def _sorted_masks(operands: Operands, bands: Sequence[tuple[int, int]], *, ascending: bool) -> Array:
    """Return which elements are kept, bit i for source i, of a small tensor, where ties stand as torch sorts them."""
    n = operands.size
    masks = np.zeros(n, np.uint8)
    for i, (top, kept) in enumerate(bands):
        if kept >= n:
            masks |= np.uint8(1 << i)
        elif kept:
            order = _order(operands, i, ascending)
            masks[order[n - top - kept : n - top] if ascending else order[:kept]] |= np.uint8(1 << i)
    return masks


def _order(operands: Operands, i: int, ascending: bool) -> Array:
    def argsort() -> Array:
        base, x = (
            widened(s) for s in (operands.base_words(0, operands.size), operands.inputs[i].words(0, operands.size))
        )
        order: Array = torch.argsort(torch.from_numpy(np.abs(x - base)), descending=not ascending).numpy()
        return order

    return operands.once(f"order {ascending}", [operands.base, operands.inputs[i]], argsort)
