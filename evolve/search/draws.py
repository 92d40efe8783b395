"""On which documents a generation is scored: all of the search documents, or a part of them that is drawn anew.

Candidates of one generation are always compared on the same documents. Drawing others for the next generation costs
nothing, and keeps a search from learning by heart what the few documents happen to like.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

FIRST = 8  # documents of a task in a race's first chunk, at least
PARTS = (8, 4, 2, 1)  # a race's chunks end at these fractions of the documents

Only = Mapping[str, tuple[int, ...]]  # task -> document ids


@dataclass(frozen=True)
class Draws:
    """`documents`: the search documents of each task. `sample`: how many of each task a generation is scored on; None:
    all. `raced`: whether they come in chunks, after which losers stop."""

    documents: Only
    seed: int
    sample: int | None = None
    raced: bool = True

    @property
    def vary(self) -> bool:
        """Whether generations are scored on different documents."""
        return self.sample is not None and any(len(ids) > self.sample for ids in self.documents.values())

    @property
    def size(self) -> int:
        """Documents of a candidate that is scored on all of a draw."""
        return sum(self._size(ids) for ids in self.documents.values())

    def chunks(self, draw: int) -> tuple[Only, ...]:
        """What candidates have been scored on after each chunk: ever more of each task, all of the draw at last."""
        drawn = {task: self._drawn(task, draw) for task in self.documents}
        found: list[Only] = []
        for part in PARTS if self.raced else (1,):
            sizes = {task: min(len(ids), max(FIRST, -(-len(ids) // part))) for task, ids in drawn.items()}
            chunk = {task: ids[: sizes[task]] for task, ids in drawn.items()}
            if not found or chunk != found[-1]:
                found.append(chunk)
        return tuple(found)

    def _size(self, ids: tuple[int, ...]) -> int:
        return len(ids) if self.sample is None else min(self.sample, len(ids))

    def _drawn(self, task: str, draw: int) -> tuple[int, ...]:
        """A window of the task's documents in a shuffled order, which is another one after each time through."""
        size, ids = self._size(self.documents[task]), sorted(self.documents[task])
        windows = max(1, len(ids) // max(1, size))
        times = draw // windows if size < len(ids) else 0
        shuffled = random.Random(f"{self.seed} {task} {times}").sample(ids, len(ids))
        place = draw % windows * size
        return tuple(shuffled[place : place + size])
