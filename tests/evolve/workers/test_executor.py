"""Jobs are pulled when somebody is free for them, whoever evaluates them: real workers, in this process and on Ray."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from engine.recipe import Recipe
from evolve.config.search_yaml import SearchConfig
from evolve.preparation.preflight import Findings
from evolve.trial import Evaluation, Failure, Job
from evolve.workers import cluster, executor
from evolve.workers.cluster import RayExecutor
from evolve.workers.evaluator import Evaluator
from evolve.workers.executor import Executor, InProcess
from evolve.workers.fleet import Seat
from evolve.workers.interruption import WAITING, Interruption
from evolve.workers.sizing import Workers
from evolve.workers.start import LazyExecutor

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, SORT = (str(DEMO / "models" / name) for name in ("base", "sort"))
MEMORY = 2**30


def config(**run: Any) -> SearchConfig:
    data = {
        "name": "small",
        "models": {"base": BASE, "sources": [SORT]},
        "score": {
            "tasks": [{"task": "demo_pick", "metric": "acc"}],
            "include": [str(DEMO)],
            "documents": {"search": 8, "selection": 4, "report": 4},
            "dtype": "float32",
        },
        "run": run,
    }
    return SearchConfig.model_validate(data)


def job(weight: float) -> Job:
    sources = [{"model": SORT, "parameters": {"weight": weight}}]
    made = {"merge_method": "task_arithmetic", "base_model": BASE, "models": sources, "dtype": "float32"}
    return Job(f"{weight:g}", "search", recipe=Recipe.model_validate(made))


@pytest.fixture(scope="module")
def two() -> Iterator[RayExecutor]:
    """Two workers on Ray."""
    ready: list[str] = []
    workers = RayExecutor(config(workers=2), Workers(2, 1, 0, MEMORY), MEMORY, ready=lambda: ready.append("one"))
    assert not ready, "the hours of a search do not run while workers start"
    assert len(list(workers.run([job(0.4)]))) == 1
    assert ready
    yield workers
    workers.close()


class Source:
    """Jobs that note when each of them was asked for: after how many results."""

    def __init__(self, count: int) -> None:
        self.count, self.results = count, 0
        self.asked_after: list[int] = []

    def __iter__(self) -> Iterator[Job]:
        for number in range(self.count):
            self.asked_after.append(self.results)
            yield job(0.1 * number)


def taken(workers: Executor, source: Source) -> list[tuple[Job, Evaluation]]:
    found = []
    for each in workers.run(source):
        found.append(each)
        source.results += 1
    return found


def test_in_one_process_each_job_is_asked_for_after_the_result_before() -> None:
    source = Source(3)
    found = taken(InProcess(Evaluator(config())), source)
    assert [each.key for each, _ in found] == ["0", "0.1", "0.2"]
    assert source.asked_after == [0, 1, 2]


def test_on_ray_a_job_is_asked_for_when_a_worker_is_free(two: RayExecutor) -> None:
    source = Source(6)
    found = taken(two, source)
    assert sorted(each.key for each, _ in found) == sorted(f"{0.1 * number:g}" for number in range(6))
    assert not [each for _, each in found if isinstance(each.outcome, Failure)]
    # With two workers at most two jobs are under way beside those that were answered.
    assert all(number - after < 2 for number, after in enumerate(source.asked_after))


def test_who_has_just_finished_gets_the_next_job(two: RayExecutor) -> None:
    taken(two, Source(4))
    last = two._fleet.idle[-1]
    for _ in range(3):
        assert len(list(two.run([job(0.7)]))) == 1
        assert two._fleet.idle[-1] is last


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Interruption:
    """Of a test, as the process has but one."""
    fresh = Interruption()
    for module in (executor, cluster):
        monkeypatch.setattr(module, "INTERRUPTION", fresh)
    return fresh


def test_after_an_interruption_what_runs_is_finished_and_nothing_begins(
    two: RayExecutor, interruption: Interruption
) -> None:
    alone = InProcess(Evaluator(config()))
    for worker, at_work in ((two, 2), (alone, 1)):
        source = Source(9)
        found = worker.run(source)
        assert len(list(islice(found, 3))) == 3
        assert interruption.waits(signal.SIGINT)
        for _ in range(at_work - 1):
            next(found)
        with pytest.raises(KeyboardInterrupt):
            next(found)
        assert len(source.asked_after) == 3 + at_work - 1
        assert not interruption.waits(signal.SIGINT)  # a second one is obeyed at once
        interruption.asked = False
    assert len(list(two.run([job(0.3)]))) == 1


def test_looking_no_further_leaves_the_workers_usable(two: RayExecutor) -> None:
    for _ in two.run(Source(5)):
        break
    source = Source(4)
    assert len(taken(two, source)) == 4


def test_nothing_to_do_starts_nobody() -> None:
    said: list[str] = []
    findings: Any = Findings.__new__(Findings)  # nothing of it is looked at
    lazy = LazyExecutor(config(), findings, said.append)
    assert list(lazy.run(iter(()))) == []
    assert (lazy.started, said) == (False, [])


def test_an_answer_that_has_come_is_handed_on_whatever_is_asked_meanwhile(
    two: RayExecutor,
    interruption: Interruption,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The signal comes when the worker is free again and its answer is not recorded yet."""

    class Struck(list[Seat]):
        def pop(self, index: Any = -1) -> Seat:
            self.given = super().pop(index)
            return self.given

        def append(self, seat: Seat) -> None:
            super().append(seat)
            if seat is self.given:
                waited.append(interruption.waits(signal.SIGINT))

    waited: list[bool] = []
    taken(two, Source(1))
    monkeypatch.setattr(two._fleet, "idle", Struck(two._fleet.idle))
    found = two.run([job(0.1)])
    assert next(found)[0].key == "0.1"
    assert waited == [True]
    assert WAITING.format("1 candidate that is at work is") in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        next(found)
