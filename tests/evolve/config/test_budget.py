"""A budget is over where its hours are, whatever else is left of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from evolve.config.budget import Budget
from evolve.config.search_yaml import Search
from evolve.trial import Trial


def budget(hours: float | None, used: float) -> Budget:
    return Budget(trials=10, hours=hours, documents=None, used_seconds=used, started=time.time())


def test_hours_count_over_all_starts() -> None:
    assert not budget(None, 1e9).late
    assert not budget(2.0, 3600).late
    late = budget(2.0, 7200)
    assert late.late
    assert late.candidates(0) == 0
    assert late.used_up(3, 0, 1) == "search.hours (2) are over"
    assert budget(2.0, 3600).candidates(3) == 7
    assert budget(2.0, 3600).candidates(12) == 0


def test_nobody_is_late_while_no_worker_can_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1e6]
    monkeypatch.setattr(time, "time", lambda: now[0])
    waiting = Budget(trials=10, hours=1.0, documents=None, used_seconds=1800)
    now[0] += 9000
    assert not waiting.late
    assert waiting.begin()
    now[0] += 1799
    assert not waiting.begin()
    assert not waiting.late
    now[0] += 1
    assert waiting.late


def test_what_earlier_starts_waited_for_workers_does_not_count() -> None:
    def at(*seconds: float) -> list[dict[str, Any]]:
        return [{"at": now - each} for each in seconds]

    now = time.time()
    trials = [Trial(0, 0, (), "", 0.1, finished=now - each) for each in (8000, 4000, 500)]
    starts = at(9000, 5000, 3000, 1000)  # the third one never got a worker, of the last that is not on record
    budget = Budget.of(Search(hours=1.0), trials, starts, at(8200, 4900))
    assert budget.used_seconds == pytest.approx(200 + 900 + 500)


def test_a_search_that_ended_by_its_hours_has_ended_for_later_starts_too() -> None:
    """What the hour cut short is no trial, so the last one was finished before it."""

    def at(*seconds: float) -> list[dict[str, Any]]:
        return [{"at": now - each} for each in seconds]

    now = time.time()
    search, trials = Search(hours=1.0), [Trial(0, 0, (), "", 0.1, finished=now - 6000)]
    budget = Budget.of(search, trials, at(9000, 1000), at(8000), at(4399))
    assert budget.used_seconds == pytest.approx(3601)
    assert budget.late
    assert not Budget.of(search, trials, at(9000, 1000), at(8000)).late
    nothing_recorded = Budget.of(search, [], at(9000, 1000), at(8000), at(4399))
    assert nothing_recorded.late


def test_ending_again_without_a_search_takes_none_of_the_hours() -> None:
    def at(*seconds: float) -> list[dict[str, Any]]:
        return [{"at": now - each} for each in seconds]

    now = time.time()
    trials = [Trial(0, 0, (), "", 0.1, finished=now - 8000)]
    # The second start has no worker; that of the third came for what follows the search.
    budget = Budget.of(Search(hours=1.0), trials, at(9000, 5000, 3000, 1000), at(8500, 2000), at(7900, 4000, 2500))
    assert budget.used_seconds == pytest.approx(600)
