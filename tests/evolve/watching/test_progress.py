"""What a person is told while a run works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from evolve.trial import Failure, Trial
from evolve.watching import progress
from evolve.watching.progress import ProgressLog


def trial(number: int, value: float | None, *, whole: bool = True, **parts: float) -> Trial:
    failure = Failure("merge", "no") if value is None else None
    return Trial(number, 0, (), "d", value, failure=failure, whole=whole, parts=parts)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> ProgressLog:
    monkeypatch.setattr(progress, "EVERY", -1.0)  # every line is told
    made = ProgressLog()
    made.stage("search", 10)
    return made


def test_the_best_of_earlier_starts_is_not_forgotten(log: ProgressLog, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = [trial(0, 0.5), trial(1, None), trial(2, 0.9, whole=False)]
    log.show_trials(lambda each: f"number {each.id}", lambda each: each.value or 0.0, recorded)
    log.finished(trial(3, 0.4))
    log.finished(trial(4, 0.8, whole=False))
    log.finished(trial(5, 0.6))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("best so far ")[1] for line in lines] == [
        f"number {best} (search documents), 1 failed" for best in (0, 0, 5)
    ]


def test_the_best_is_told_by_the_weights_of_now(log: ProgressLog, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"a": 1.0, "b": 0.0}
    log.show_trials(
        lambda each: f"number {each.id}",
        lambda each: sum(weights[task] * part for task, part in each.parts.items()),
        weights=lambda: weights,
    )
    log.finished(trial(0, 0.9, a=0.9, b=0.1))
    weights.update(a=0.0, b=1.0)
    log.finished(trial(1, 0.2, a=0.2, b=0.2))
    first, second = capsys.readouterr().out.splitlines()
    assert "number 0" in first
    assert "number 1" in second


def test_the_last_of_many_trials_costs_what_the_first_did(log: ProgressLog) -> None:
    asked: list[int] = []
    log.show_trials(lambda each: "", lambda each: asked.append(each.id) or each.value or 0.0)
    for number in range(200):
        log.finished(trial(number, 0.5))
    assert asked == list(range(200))


class Heard:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.trials: list[tuple[int, float | None, bool]] = []

    def hear(self, event: str, fields: Mapping[str, Any]) -> None:
        self.events.append((event, dict(fields)))

    def trial(self, trial: Trial, best: float | None, *, new: bool) -> None:
        self.trials.append((trial.id, best, new))

    def close(self, outcome: str) -> None:
        self.events.append((outcome, {}))


def test_who_listens_hears_all_but_what_only_fills_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log, heard = ProgressLog(), Heard()
    log.say("warning: little memory")
    log.listen(heard)
    log.say("\nworse than the base\n")
    log.stage("search", 3)
    log.note("gradient step 1")
    log.step("one")
    assert heard.events == [
        ("warning", {"text": "little memory"}),
        ("said", {"text": "worse than the base"}),
        ("stage", {"name": "search", "steps": 3}),
    ]


def test_who_listens_hears_of_every_trial_in_its_order(log: ProgressLog) -> None:
    heard = Heard()
    log.listen(heard)
    recorded = [replace(trial(number, value), finished=at) for number, value, at in ((0, 0.5, 2.0), (1, 0.9, 1.0))]
    log.show_trials(lambda each: "", lambda each: each.value or 0.0, recorded)
    log.finished(trial(2, None))
    log.finished(trial(3, 1.0))
    assert heard.trials == [(1, 0.9, False), (0, 0.9, False), (2, 0.9, True), (3, 1.0, True)]


def test_what_is_done_beside_the_steps_is_told(log: ProgressLog, capsys: pytest.CaptureFixture[str]) -> None:
    log.note("gradient step 3 of 20, chance of a right answer 0.41")
    assert capsys.readouterr().out == "search: gradient step 3 of 20, chance of a right answer 0.41\n"
