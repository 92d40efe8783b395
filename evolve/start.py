"""Starting workers, when there is something for them to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from evolve.config import SearchConfig
from evolve.executor import Executor, InProcess
from evolve.preflight import Findings
from evolve.trial import Evaluation, Job
from evolve.workers import counted, worker_bytes


def local_device() -> str:
    """Where a worker in this process computes, as torch names it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class LazyExecutor:
    """An executor that starts its workers with the first job: re-opening a finished run costs nothing."""

    def __init__(self, config: SearchConfig, findings: Findings, say: Callable[[str], None]) -> None:
        self._config, self._findings, self._say = config, findings, say
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
        workers = self._findings.workers
        if workers is not None and workers.count == 1:
            from evolve.evaluator import Evaluator

            self._say(f"one worker, in this process, {counted(workers.threads, 'thread')}")
            return InProcess(Evaluator(self._config, device=local_device(), threads=workers.threads))
        from evolve.cluster import RayExecutor

        executor = RayExecutor(self._config, workers, worker_bytes(self._findings.setting))
        self._say(executor.describe())
        return executor
