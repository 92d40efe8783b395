"""Workers that die, hang, or run out of memory: real ones on Ray, which a task of the user's brings to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from evolve.config.search_yaml import SearchConfig
from evolve.preparation.setting import Setting
from evolve.trial import Evaluation, Failure, Job
from evolve.workers.cluster import RayExecutor
from evolve.workers.evaluator import Evaluator
from evolve.workers.executor import InProcess
from evolve.workers.sizing import Workers
from evolve.workers.start import time_limit
from evolve.workers.time_limit import TimeLimit

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, SORT = (str(DEMO / "models" / name) for name in ("base", "sort"))
MEMORY = 2**30
GROUP = Path("/sys/fs/cgroup/memory")  # where limits can be set by root, on machines with version 1
TASK = """
task: obeying
include: {demo}/demo_pick.yaml
process_results: !function obeying.judge
"""
CODE = """
import os, signal
from pathlib import Path

ORDERS = Path(__file__).with_name("orders")


def judge(doc, results):
    if ORDERS.exists():
        obey(ORDERS.read_text().split())
    answers = [float(each[0]) for each in results]
    return {"acc": float(answers.index(max(answers)) == doc["choices"].index(doc["answer"]))}


def obey(words):
    if words[-1] == "once":
        ORDERS.unlink()
    if words[0] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if words[0] == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)  # answers to nothing, not to Ray either
    if words[0] == "hog":
        (Path(words[1]) / "cgroup.procs").write_text(str(os.getpid()))
        bytearray(2**28)
"""


class Obeying:
    """A folder with a task whose judge does what stands in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "obeying.yaml").write_text(TASK.format(demo=DEMO), encoding="utf-8")
        (folder / "obeying.py").write_text(CODE, encoding="utf-8")
        self.config = SearchConfig.model_validate(
            {
                "name": "small",
                "models": {"base": BASE, "sources": [SORT]},
                "score": {
                    "tasks": [{"task": "obeying", "metric": "acc"}],
                    "include": [str(folder)],
                    "documents": {"search": 8, "selection": 12, "report": 16},
                    "dtype": "float32",
                },
                "run": {"candidate_minutes": 0.5, "output": str(folder / "results")},
            }
        )

    def order(self, words: str) -> None:
        (self.folder / "orders").write_text(words, encoding="utf-8")

    def free(self) -> None:
        (self.folder / "orders").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def obeying(tmp_path_factory: pytest.TempPathFactory) -> Obeying:
    return Obeying(tmp_path_factory.mktemp("obeying"))


@pytest.fixture(scope="module")
def told() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def worker(obeying: Obeying, told: list[Any]) -> Iterator[RayExecutor]:
    executor = RayExecutor(obeying.config, Workers(1, 1, 0, MEMORY), MEMORY, placed=told.append)
    yield executor
    executor.close()


def evaluated(executor: RayExecutor | InProcess) -> Evaluation:
    ((_, evaluation),) = executor.run([Job("base", "search", folder=BASE)])
    return evaluation


def test_who_dies_is_replaced_and_the_job_done(worker: RayExecutor, obeying: Obeying) -> None:
    here = evaluated(InProcess(Evaluator(obeying.config))).outcome
    obeying.order("die once")
    there = evaluated(worker).outcome
    assert not isinstance(here, Failure)
    assert not isinstance(there, Failure)
    assert there.measures == here.measures
    assert not (obeying.folder / "orders").exists()


@pytest.mark.slow
def test_what_hangs_is_killed(worker: RayExecutor, obeying: Obeying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_limit", TimeLimit(0.1, {"search": 8}))
    obeying.order("hang always")
    assert evaluated(worker).outcome == Failure("time", "took longer than run.candidate_minutes (0.1), twice")
    obeying.free()


@pytest.mark.slow
@pytest.mark.skipif(not os.access(GROUP / "cgroup.procs", os.W_OK), reason="needs to set limits of memory")
def test_what_the_kernel_kills_for_memory_is_told_as_that(worker: RayExecutor, obeying: Obeying) -> None:
    group = GROUP / f"evolve-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(2**24))
        obeying.order(f"hog {group}")
        failure = evaluated(worker).outcome
        assert isinstance(failure, Failure)
        assert failure.kind == "memory"
        assert "batches of half the size" in failure.message
        obeying.order(f"hog {group} once")
        assert not isinstance(evaluated(worker).outcome, Failure)
    finally:
        obeying.free()
        group.rmdir()


def test_workers_have_names_and_their_place_is_told(worker: RayExecutor, told: list[Any]) -> None:
    evaluated(worker)
    names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
    assert [each for each in names if each.startswith("evolve small worker ")]
    (row,) = worker.placement()
    assert {**row, "node": ""} == {"node": "", "workers": 1, "threads": 1, "gpus": 0}
    assert row["node"] == ray.nodes()[0]["NodeManagerAddress"]
    assert told[0] == [{"node": "", "workers": 1, "threads": 1, "gpus": 0}]
    late = time.monotonic() + 60
    while [row] not in told and time.monotonic() < late:  # it is looked now and then only
        evaluated(worker)
    assert [row] in told


def test_more_documents_may_take_longer(obeying: Obeying) -> None:
    limit = time_limit(Setting(obeying.config))
    assert limit.seconds(Job("a", "search")) == 30
    assert limit.seconds(Job("a", "search", only={"obeying": (1, 2)})) == 30
    assert limit.seconds(Job("a", "selection")) == 45
    assert limit.seconds(Job("a", "report")) == 60
