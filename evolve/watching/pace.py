"""How fast a run goes, how busy its workers are and how long it will take, from its ledger alone.

All spans are differences of the driver's own clock, so another machine that looks sees the same; only what is counted
up to now needs the clocks to agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolve.config.budget import WORKING, Budget
from evolve.config.search_yaml import Search
from evolve.storage.ledger import SEARCH_ENDED, START
from evolve.trial import Trial

FEWEST = 10  # trials that the rate is taken over at least, and
LAPS = 4  # for each worker so many

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Pace:
    """Of the present start. `candidates`, `documents`: a second, over the last `window` trials (0: not known yet);
    `utilisation`: the share of the workers' time that went into candidates, until the last one finished, None where
    their number is not known; `left`: key of search.yaml -> seconds until that budget ends; `silent`: seconds since
    the last candidate, or since the start."""

    candidates: float
    documents: float
    window: int
    utilisation: float | None
    left: Mapping[str, float]
    silent: float | None

    @property
    def first(self) -> tuple[str, float] | None:
        """The budget that ends first, and in how many seconds."""
        return min(self.left.items(), key=lambda each: each[1], default=None)


def pace_of(trials: Sequence[Trial], events: Sequence[Event], search: Search, workers: int | None, now: float) -> Pace:
    """`workers`: their number, None where it is not known; `now`: seconds since the epoch."""
    starts = [event for event in events if event["kind"] == START]
    begun = float(starts[-1]["at"]) if starts else None
    recent = sorted(
        (each for each in trials if begun is None or each.finished >= begun), key=lambda each: each.finished
    )
    candidates, documents, window = rates(recent, max(FEWEST, LAPS * (workers or 0)))
    last = recent[-1].finished if recent else begun
    return Pace(
        candidates=candidates,
        documents=documents,
        window=window,
        utilisation=utilisation(recent, begun, workers),
        left=time_left(trials, events, search, candidates, documents, now),
        silent=None if last is None else max(0.0, now - last),
    )


def rates(trials: Sequence[Trial], fewest: int) -> tuple[float, float, int]:
    """Candidates and documents a second over the last trials, and how many these are; 0 where there is no span.

    Those are `fewest` or more, from the end of one generation on: the losers of a race are recorded all at once, so
    that a span which begins within a generation says little. Where there are fewer, all of them.
    """
    ends = sorted({trial.generation: place for place, trial in enumerate(trials)}.values())  # of its last trial
    early = [place for place in ends[:-1] if place < len(trials) - fewest]
    first = early[-1] if early else 0
    span = trials[-1].finished - trials[first].finished if trials else 0.0
    if span <= 0:
        return 0.0, 0.0, 0
    after = trials[first + 1 :]
    window = len(after) if early else len(trials)
    return len(after) / span, sum(trial.documents for trial in after) / span, window


def utilisation(trials: Sequence[Trial], begun: float | None, workers: int | None) -> float | None:
    if not trials or begun is None or not workers or trials[-1].finished <= begun:
        return None
    return min(1.0, sum(map(busy, trials)) / (workers * (trials[-1].finished - begun)))


def busy(trial: Trial) -> float:
    """Seconds of a worker that a trial took: its total, which failures do not have."""
    parts = sum(seconds for phase, seconds in trial.seconds.items() if phase != "total")
    return max(trial.seconds.get("total", 0.0), parts)


def time_left(
    trials: Sequence[Trial], events: Sequence[Event], search: Search, candidates: float, documents: float, now: float
) -> dict[str, float]:
    """Key of search.yaml -> seconds until that budget ends, of those for which that can be told."""
    left = {}
    if candidates:
        left["search.trials"] = max(0, search.trials - len(trials)) / candidates
    if search.documents is not None and documents:
        left["search.documents"] = max(0, search.documents - spent(trials, events)) / documents
    if search.hours is not None:
        kinds = START, WORKING, SEARCH_ENDED
        starts, working, ended = ([dict(each) for each in events if each["kind"] == kind] for kind in kinds)
        begun = max((float(start["at"]) for start in starts), default=0.0)
        marks = [*(each.finished for each in trials), *(float(event["at"]) for event in working)]
        running = now - max((at for at in marks if at >= begun), default=now)  # a start without a worker waits
        if any(float(event["at"]) >= begun for event in ended):
            running = 0.0
        used = Budget.of(search, trials, starts, working, ended).used_seconds + max(0.0, running)
        left["search.hours"] = max(0.0, search.hours * 3600 - used)
    return left


def spent(trials: Sequence[Trial], events: Sequence[Event]) -> int:
    """Documents that count for the budget: of trials, of gradients, and of asking whether the search is worth it."""
    return sum(trial.documents for trial in trials) + sum(int(event.get("documents", 0)) for event in events)
