"""What DELLA keeps: what is kept of each task vector is drawn by the rank of its magnitude in its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.kernels.ranks import mark, mark_all, rank_rows
from engine.kernels.sparsified import Select, Selection
from engine.methods.della import check_probabilities, probability
from engine.methods.draws import LOW, upper_word
from engine.methods.method import Rng
from engine.operands import MOST_MASKS, Operands, between


def ranked(method: str) -> Select:
    """Return what a method keeps that keeps elements with probabilities that grow with their rank."""

    def select(operands: Operands, p: Mapping[str, Any], rng: Rng) -> Selection | None:
        shape, k = operands.job.shape, len(operands.inputs)
        row = operands.size if len(shape) < 2 else shape[1]
        if len(shape) > 2 or k > MOST_MASKS or row >= LOW:
            return None
        for density, epsilon in zip(p["density"], p["epsilon"], strict=True):
            if 0.0 < density < 1.0:
                check_probabilities(method, density, epsilon)
        masks = np.zeros(operands.size, np.uint8)

        def draw(begin: int, end: int) -> None:
            ranks = np.empty(end - begin, np.uint32)
            for i, source in enumerate(operands.inputs):
                density, bit = p["density"][i], np.uint8(1 << i)
                if not 0.0 < density < 1.0:
                    mark_all(masks[begin:end], bit if density > 0.0 else np.uint8(0))
                    continue
                rank_rows(operands.base_words(begin, end), source.words(begin, end), row, ranks)
                line, key = probability(row, density, p["epsilon"][i]), rng(i)
                for first, last in between(begin, end, range(1 << 32, operands.size, 1 << 32)):
                    words = (np.uint32(key & LOW), np.uint32(upper_word(key, first)), np.uint32(first & LOW))
                    mark(ranks[first - begin : last - begin], line, words, masks[first:last], bit)

        if len(shape) < 2:
            draw(0, operands.size)  # one row, which has no pieces
        else:
            operands.map(draw)
        return Selection(lambda begin, end: masks[begin:end])

    return select
