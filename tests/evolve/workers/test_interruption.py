"""A first signal waits for what is worth waiting for, and for nothing else; SIGTERM not for ever."""

from __future__ import annotations

import signal
import time

import pytest

from evolve.workers import interruption
from evolve.workers.interruption import WAITING, Interruption


def test_where_nobody_is_at_work_it_is_now(capfd: pytest.CaptureFixture[str]) -> None:
    asked = Interruption()
    assert not asked.waits(signal.SIGINT)
    with asked.finishing():
        pass
    assert not asked.waits(signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_what_is_at_work_is_finished_first(capfd: pytest.CaptureFixture[str]) -> None:
    asked = Interruption()
    done: list[str] = []

    def work() -> None:
        with asked.finishing():
            assert asked.waits(signal.SIGINT)
            assert not asked.waits(signal.SIGINT)  # the second one
            done.append("work")
        done.append("more")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["work"]
    assert capfd.readouterr().err == WAITING.format("1 candidate that is at work is")
    with pytest.raises(KeyboardInterrupt):  # whoever looked no further is stopped before the next work
        work()
    assert done == ["work"]


def test_nobody_waits_for_workers_that_only_start(capfd: pytest.CaptureFixture[str]) -> None:
    asked, busy = Interruption(), list[str]()

    def work() -> None:
        with asked.finishing(lambda: len(busy)):
            assert not asked.waits(signal.SIGINT)
            assert capfd.readouterr().err == ""
            busy.extend(("one", "two"))
            assert asked.waits(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "once 2 candidates that are at work are finished" in capfd.readouterr().err


def test_an_error_of_the_work_is_not_hidden() -> None:
    asked = Interruption()

    def work() -> None:
        with asked.finishing():
            asked.waits(signal.SIGINT)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()


def test_a_cluster_that_stops_us_waits_no_longer_than_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "GRACE", 1)
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    try:
        asked = Interruption()
        with asked.finishing():
            assert asked.waits(signal.SIGTERM)
            deadline = time.monotonic() + 30
            while not rung and time.monotonic() < deadline:
                time.sleep(0.05)
            asked.asked = False
        assert rung == [signal.SIGALRM]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
