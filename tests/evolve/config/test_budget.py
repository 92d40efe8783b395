"""A budget is over where its hours are, whatever else is left of it."""

from __future__ import annotations

import time

from evolve.config.budget import Budget


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
