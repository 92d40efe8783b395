"""Workers on a Ray cluster, on this machine or many. The only module that imports Ray.

A worker is an actor with an `Evaluator`. One that dies is replaced and its job tried once more; what comes back
is yielded as it comes, so the order never depends on the number of workers.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.exceptions

from evolve.config import SearchConfig
from evolve.errors import RunError
from evolve.executor import ATTEMPTS, attempt
from evolve.trial import Evaluation, Failure, Job
from evolve.workers import Workers

WAIT = 5.0  # seconds between two looks at the workers


class Worker:
    """The actor: an evaluator, made where it runs."""

    def __init__(self, config: SearchConfig, threads: int) -> None:
        from evolve.environment import limit_threads, quiet

        limit_threads(threads)
        quiet()
        from evolve.evaluator import Evaluator

        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._evaluator = Evaluator(config, device=device, threads=threads)

    def evaluate(self, job: Job) -> Evaluation:
        return attempt(self._evaluator, job)


class RayExecutor:
    """As many actors as `workers` says (None: as the cluster bears); a job goes to whichever is free."""

    def __init__(self, config: SearchConfig, workers: Workers | None, memory: int) -> None:
        self._config = config
        self._temporary = connect(config.run.address, workers)
        self._workers = workers or cluster_workers(config, memory)
        self._actors = [self._start() for _ in range(self._workers.count)]

    def describe(self) -> str:
        workers = self._workers
        each = f"{workers.gpus:g} GPU" if workers.gpus else f"{workers.threads} threads"
        return f"{workers.count} workers with {each} each, on Ray ({self._config.run.address})"

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        waiting = [(job, 1) for job in reversed(jobs)]
        idle = list(self._actors)
        busy: dict[Any, tuple[Any, Job, int]] = {}
        while waiting or busy:
            while waiting and idle:
                actor = idle.pop()
                job, tries = waiting.pop()
                busy[actor.evaluate.remote(job)] = (actor, job, tries)
            done, _ = ray.wait(list(busy), num_returns=1, timeout=WAIT)
            for reference in done:
                actor, job, tries = busy.pop(reference)
                try:
                    evaluation = ray.get(reference)
                except ray.exceptions.RayActorError as error:
                    actor = self._replace(actor, error)
                    idle.append(actor)
                    if tries < ATTEMPTS:
                        waiting.append((job, tries + 1))
                        continue
                    evaluation = Evaluation(Failure("worker died", first_line(error)))
                else:
                    idle.append(actor)
                yield job, evaluation

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        ray.shutdown()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _start(self) -> Any:
        options = {
            "num_cpus": self._workers.threads,
            "num_gpus": self._workers.gpus,
            "memory": self._workers.memory,
        }
        return ray.remote(Worker).options(**options).remote(self._config, self._workers.threads)

    def _replace(self, actor: Any, error: Exception) -> Any:
        """A new actor for a dead one. A worker that could not even start will not start again either."""
        if isinstance(error, ray.exceptions.ActorDiedError) and "__init__" in str(error):
            raise RunError(f"a worker could not start: {last_line(error)}; `evolve check` shows more") from error
        self._actors.remove(actor)
        self._actors.append(self._start())
        return self._actors[-1]


def connect(address: str, workers: Workers | None) -> tempfile.TemporaryDirectory[str] | None:
    """Join the cluster at `address`, or start one on this machine (then its temporary folder is returned)."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address != "local":
        try:
            ray.init(address=address, namespace="merge-evolve", **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RunError(
                f"run.address ({address}): no Ray cluster answers ({first_line(error)}); "
                "start one with `ray start --head`, or use `address: local`"
            ) from error
        return None
    if workers is None:
        raise RuntimeError("workers on this machine are counted before Ray starts")
    # A folder of its own: a stale cluster's files elsewhere cannot be joined by mistake. Sockets need short paths.
    temporary = tempfile.TemporaryDirectory(prefix="evolve-ray-", ignore_cleanup_errors=True)
    ray.init(
        address="local",
        num_cpus=workers.count * workers.threads,
        num_gpus=int(workers.count * workers.gpus),
        object_store_memory=100 * 2**20,  # weights never pass through it: workers map the files themselves
        include_dashboard=False,
        _temp_dir=temporary.name,
        _memory=int(workers.count * workers.memory * 1.01) + 1,
        **quiet,
    )
    return temporary


def cluster_workers(config: SearchConfig, memory: int) -> Workers:
    """For the cluster that this process joined: one worker a GPU, else one a core where memory bears it."""
    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    wanted = config.run.workers
    if gpus:
        count = gpus if wanted == "auto" else int(wanted)
        return Workers(count, max(1, cores // count), min(1.0, gpus / count), memory)
    fitting = max(1, int(resources.get("memory", 0) // memory))
    count = min(cores, fitting) if wanted == "auto" else int(wanted)
    return Workers(count, max(1, cores // count), 0, memory)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
