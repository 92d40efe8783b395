"""The steps of a climb: how many there are, over which documents, and what they are charged.

A document of a step is charged as RATIO scored ones. Measured in processor time on one thread, steps of 8 documents a
task beside scoring 16 to 32 a task: 3.8 on models of the demo's size (1M parameters, float32, five tasks of short
answers), 4.5 on a 135M model in bfloat16, where the backward pass itself is slow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

RATIO = 4.5  # the dearer of the two
FEWEST = 10  # steps that a climb may take, however few documents there are
Ids = Mapping[str, Sequence[int]]  # task -> documents


@dataclass(frozen=True)
class Settings:
    """How it is climbed. `step`: of Adam, in units of a weight, not of its range; after n of them it is shorter by
    sqrt(1 + n / `decay`), so that a longer climb begins like a shorter one. `batch`: documents of each task a step.
    `most`: steps; `rounds`: through the documents, after which few are learned by heart (but FEWEST steps at least);
    `patience`: epochs without a better one after which it ends."""

    step: float = 0.05
    batch: int = 8
    first: float = 0.9  # decay of the gradient's mean
    second: float = 0.99  # of its mean square
    decay: float = 8.0
    most: int = 80
    rounds: float = 2.5
    patience: int = 1


DEFAULTS = Settings()


def charge(batch: Ids) -> int:
    """What a step over these documents costs, in scored documents."""
    return math.ceil(RATIO * sum(map(len, batch.values())))


def most_charged(documents: Ids, settings: Settings = DEFAULTS) -> int:
    """What a climb costs if it makes all its steps, in scored documents."""
    return sum(map(charge, batches(documents, replace(settings, most=steps_of(documents, settings)), 0)))


def batches(documents: Ids, settings: Settings, seed: int | str) -> list[dict[str, tuple[int, ...]]]:
    """The documents of every step: of each task about `batch` that were not taken yet, until all were; then anew.

    A task's documents are shuffled for every round and cut into parts as equal as they can be.
    """
    taken: list[dict[str, tuple[int, ...]]] = [{} for _ in range(settings.most)]
    for task, ids in documents.items():
        drawn = random.Random(f"{seed} {task}")
        parts: list[tuple[int, ...]] = []
        while ids and len(parts) < settings.most:
            order, count = list(ids), epoch(len(ids), settings)
            drawn.shuffle(order)
            edges = [place * len(order) // count for place in range(count + 1)]
            parts += [tuple(sorted(order[first:last])) for first, last in pairwise(edges)]
        for batch, part in zip(taken, parts, strict=False):
            batch[task] = part
    return taken


def steps_of(documents: Ids, settings: Settings) -> int:
    """How many steps there are at most."""
    longest = max((epoch(len(ids), settings) for ids in documents.values()), default=1)
    return min(settings.most, max(FEWEST, int(settings.rounds * longest)))


def epoch(count: int, settings: Settings) -> int:
    """Steps in which so many documents of a task are all taken once."""
    return max(1, round(count / settings.batch))
