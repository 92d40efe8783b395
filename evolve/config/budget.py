"""The budget of a search: trials, hours and scored documents, whichever ends first."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from evolve.config.search_yaml import Search
from evolve.trial import Trial

WORKING = "working"  # the kind of the event that a start's first worker can work


@dataclass
class Budget:
    """The hours run while there are workers: `started` is when this start's first one could work, None until then."""

    trials: int
    hours: float | None
    documents: int | None
    used_seconds: float  # by earlier starts of this run
    started: float | None = None

    @classmethod
    def of(
        cls,
        search: Search,
        trials: Collection[Trial],
        starts: Collection[dict[str, Any]],
        working: Collection[dict[str, Any]] = (),
        ended: Collection[dict[str, Any]] = (),
    ) -> Budget:
        """`starts`, `working` and `ended` (the search) are the ledger's events of these kinds: an earlier start lasted
        from when its first worker could work (where that is not on record, from its beginning) until its search ended,
        or else until the last trial it finished."""
        marks, ready = sorted(event["at"] for event in starts), sorted(event["at"] for event in working)
        finished, over = [trial.finished for trial in trials], [event["at"] for event in ended]
        used = 0.0
        for start, end in zip(marks, [*marks[1:], time.time()], strict=False):
            begin = next((at for at in ready if start <= at < end), None)
            # Candidates that the hour cuts short are no trials; a search that ends without a worker took no time.
            last = finished if begin is None else finished + over
            begin = start if begin is None else begin
            used += max((at for at in last if begin <= at < end), default=begin) - begin
        return cls(search.trials, search.hours, search.documents, used)

    def begin(self) -> bool:
        """A worker can work: the hours run from the first time on, which this returns."""
        first = self.started is None
        if first:
            self.started = time.time()
        return first

    def used_up(self, trials: int, spent: int, each: int, begun: int = 0) -> str:
        """What of it does not bear one candidate of `each` documents more; "" where all of it does. `begun`: candidates
        of a generation that it cut short, whose documents are not in `spent`."""
        if not self.candidates(min(trials, self.trials - 1)):
            return f"search.hours ({self.hours:g}) are over"
        if trials >= self.trials:
            return f"search.trials ({self.trials}) is used up"
        return "" if self.times(each, spent) > begun else f"search.documents ({self.documents}) is used up"

    @property
    def late(self) -> bool:
        """Whether the hours are over, so that nothing is begun any more."""
        running = 0.0 if self.started is None else time.time() - self.started
        return self.hours is not None and (self.used_seconds + running) / 3600 >= self.hours

    def candidates(self, trials: int) -> int:
        """How many more candidates may be evaluated now, where there are `trials` already."""
        return 0 if self.late else max(0, self.trials - trials)

    def times(self, each: int, spent: int) -> int:
        """How many times `each` documents may still be scored after `spent` of them."""
        if self.documents is None:
            return sys.maxsize
        return max(0, self.documents - spent) // max(1, each)
