"""What is said of workers that are awaited: once, and again when the wait is over."""

from __future__ import annotations

import time

import pytest

from evolve.workers.awaiting import LOADING, Awaiting, without_room
from evolve.workers.sizing import Workers


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.said: list[str] = []
        self.awaiting = Awaiting(self.said.append, lambda count: f"room for {count}")

    def pass_(self, seconds: int, placeless: int, able: int) -> list[str]:
        """What is said in so many seconds."""
        before = len(self.said)
        for _ in range(2 * seconds):
            self.now += 0.5
            self.awaiting.look(placeless, able)
        return self.said[before:]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_what_takes_a_moment_is_not_told(clock: Clock) -> None:
    assert clock.pass_(2, 0, 0) == []
    assert clock.pass_(60, 0, 1) == []
    assert clock.pass_(5, 1, 1) == []  # a machine has left, and another came
    assert clock.pass_(60, 0, 1) == []


def test_workers_that_load_are_told_of_once(clock: Clock) -> None:
    assert clock.pass_(60, 0, 0) == [LOADING]
    assert clock.pass_(60, 0, 2) == []


def test_who_has_no_place_is_told_of_and_that_it_has_one(clock: Clock) -> None:
    assert clock.pass_(9, 2, 0) == []
    assert clock.pass_(60, 2, 0) == ["room for 2"]
    assert clock.pass_(5, 1, 0) == []  # one loads
    assert clock.pass_(5, 1, 1) == ["1 worker can work now; 1 still waits for room"]
    assert clock.pass_(5, 1, 1) == []
    assert clock.pass_(60, 0, 2) == ["2 workers can work now"]


def test_some_that_have_no_place_beside_others_at_work(clock: Clock) -> None:
    assert clock.pass_(60, 3, 5) == ["room for 3"]
    assert clock.pass_(60, 0, 8) == ["8 workers can work now"]
    assert clock.pass_(60, 1, 7) == ["room for 1"]


def test_what_is_taken_of_what_there_is() -> None:
    kinds = (Workers(2, 4, 0.5, 3 * 2**30),)
    there = {"CPU": 16.0, "GPU": 1.0, "memory": 64.0 * 2**30}
    assert without_room(2, kinds, there, {"CPU": 2.0, "memory": 32.0 * 2**30}) == (
        "waiting for room: 2 workers of 4 cores, 0.5 GPU, 3.0 GiB each; on the cluster 14 of 16 cores, "
        "1 of 1 GPUs, 32.0 of 64.0 GiB are taken (`ray status`)"
    )
