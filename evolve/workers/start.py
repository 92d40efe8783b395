"""Starting workers, when there is something for them to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from evolve.config.search_yaml import SearchConfig
from evolve.preparation.course import draws_of
from evolve.preparation.preflight import Findings
from evolve.preparation.setting import Setting
from evolve.trial import Evaluation, Job
from evolve.workers.executor import Executor, InProcess
from evolve.workers.sizing import counted, worker_bytes
from evolve.workers.time_limit import TimeLimit


def local_device() -> str:
    """Where a worker in this process computes, as torch names it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class LazyExecutor:
    """An executor that starts its workers with the first job: re-opening a finished run costs nothing."""

    def __init__(
        self,
        config: SearchConfig,
        findings: Findings,
        say: Callable[[str], None],
        placed: Callable[[list[dict[str, Any]]], None] = lambda _: None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`placed` is told where the workers are when they have started and whenever that has changed: rows with
        `node`, `workers`, `threads`, `gpus`, as `evolve.workers.fleet.Fleet.placement` makes them. `ready` is called
        when a worker can work, and perhaps again."""
        self._config, self._findings, self._say, self._placed, self._ready = config, findings, say, placed, ready
        self._executor: Executor | None = None

    @property
    def started(self) -> bool:
        return self._executor is not None

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        source = iter(jobs)
        first = next(source, None)
        if first is None:  # no worker is started for nothing
            return
        if self._executor is None:
            self._executor = self._start()
        yield from self._executor.run(chain([first], source))

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()

    def _start(self) -> Executor:
        workers, minutes = self._findings.workers, self._config.run.candidate_minutes
        if workers is not None and workers.count == 1 and minutes is None:
            from evolve.workers.evaluator import Evaluator

            self._say(f"one worker, in this process, {counted(workers.threads, 'thread')}")
            device = local_device()
            self._placed(
                [{"node": "this process", "workers": 1, "threads": workers.threads, "gpus": int(device != "cpu")}]
            )
            evaluator = Evaluator(self._config, device=device, threads=workers.threads)
            self._ready()
            return InProcess(evaluator)
        from evolve.workers.cluster import RayExecutor

        setting = self._findings.setting
        limit = time_limit(setting)
        told: dict[str, Any] = {"placed": self._placed, "ready": self._ready, "say": self._say}
        address = self._config.run.address
        self._say("starting Ray" if address == "local" else f"joining Ray ({address})")
        executor = RayExecutor(self._config, workers, worker_bytes(setting), limit=limit, **told)
        self._say(executor.describe())
        return executor


def time_limit(setting: Setting) -> TimeLimit:
    """`run.candidate_minutes`, for as many documents as a candidate of the search is scored on."""
    sets = setting.prepared.documents.values()
    return TimeLimit(
        setting.config.run.candidate_minutes,
        {
            "search": draws_of(setting).size,
            "selection": sum(len(each.selection) for each in sets),
            "report": sum(len(each.report) for each in sets),
        },
    )
