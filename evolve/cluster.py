"""Workers on a Ray cluster, on this machine or many. The only module that imports Ray.

A worker is an actor with an `Evaluator`. It is given jobs once it has started, so one that the cluster cannot place
holds nothing up. One that dies, alone or with its machine, is replaced and its job tried once more; what comes back
is yielded as it comes, so the order never depends on the number of workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import ray
import ray.exceptions

from evolve.config import SearchConfig
from evolve.errors import RunError
from evolve.executor import ATTEMPTS, attempt
from evolve.scratch import scratch
from evolve.trial import Evaluation, Failure, Job
from evolve.workers import Node, Workers, spread_workers, usable_gpus

WAIT = 5.0  # seconds between two looks at the workers and at the machines they run on
FETCH = 60.0  # seconds in which a finished worker's answer must arrive
PLACING = 900.0  # seconds without any worker at work, after which a run ends
PROBE = 10.0  # seconds in which a cluster's address must answer
STARTS = 5  # workers in a row that may die while they start


class Worker:
    """The actor: an evaluator, made where it runs."""

    def __init__(self, config: SearchConfig, threads: int, folder: str) -> None:
        """`folder` is the driver's: paths of the configuration are relative to it, where this machine has it."""
        if os.path.isdir(folder):
            os.chdir(folder)
        from evolve.environment import limit_threads, quiet

        limit_threads(threads)
        quiet()
        from evolve.evaluator import Evaluator

        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._evaluator = Evaluator(config, device=device, threads=threads)

    def machine(self) -> str:
        """The node it runs on; it answers once it has started."""
        return str(ray.get_runtime_context().get_node_id())

    def evaluate(self, job: Job) -> Evaluation:
        return attempt(self._evaluator, job)


class RayExecutor:
    """As many actors as `workers` says (None: as the cluster bears); a job goes to whichever is free."""

    def __init__(self, config: SearchConfig, workers: Workers | None, memory: int) -> None:
        self._config = shareable(config)
        self._machines: dict[Any, str] = {}  # where each actor that has started runs
        self._starting: dict[Any, Any] = {}  # answer to come -> actor
        self._idle: list[Any] = []
        self._deaths = 0  # of actors that were starting, in a row
        self._looked = time.monotonic()
        self._stack = contextlib.ExitStack()
        try:
            connect(config.run.address, workers, self._stack)
            self._workers = workers or cluster_workers(config, memory)
            for _ in range(self._workers.count):
                self._start()
        except BaseException:
            self._stack.close()
            raise

    def describe(self) -> str:
        workers = self._workers
        return f"{workers.text}, on Ray ({self._config.run.address})"

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        source: Iterator[Job] | None = iter(jobs)
        again: list[tuple[Job, int]] = []  # whose worker was lost, with the number of the try to come
        come: list[Any] = []  # answers that are not handed on yet
        busy: dict[Any, tuple[Any, Job, int]] = {}
        deadline = time.monotonic() + PLACING
        try:
            while source is not None or again or busy:
                while self._idle and (again or source is not None):
                    job, tries = again.pop() if again else (next(source, None) if source is not None else None, 1)
                    if job is None:
                        source = None
                        break
                    actor = self._idle.pop()  # the one that has just finished may hold this candidate's weights
                    busy[actor.evaluate.remote(job)] = (actor, job, tries)
                if not (busy or again or source is not None):
                    return
                if busy:
                    deadline = time.monotonic() + PLACING
                elif time.monotonic() > deadline:
                    raise self._nowhere()
                come = come or self._finished({each: actor for each, (actor, _, _) in busy.items()})
                if not come:
                    continue
                # One at a time: what is asked for next may depend on it.
                reference = come.pop(0)
                if reference in self._starting:
                    self._settle(reference)
                elif reference in busy:
                    actor, job, tries = busy.pop(reference)
                    evaluation = answer(reference)
                    if evaluation.outcome == LOST:
                        self._replace(actor)
                        self._doubt()
                        if tries < ATTEMPTS:
                            again.append((job, tries + 1))
                            continue
                    else:
                        self._idle.append(actor)
                    yield job, evaluation
        finally:
            # Whoever looks no further leaves workers at work: they are asked again once they have answered.
            for actor, _, _ in busy.values():
                self._starting[actor.machine.remote()] = actor

    def close(self) -> None:
        self._stack.close()  # ends Ray, or leaves the cluster; the actors end with it

    def _start(self) -> None:
        options = {
            "num_cpus": self._workers.threads,
            "num_gpus": self._workers.gpus,
            "memory": self._workers.memory,
        }
        actor = ray.remote(Worker).options(**options).remote(self._config, self._workers.threads, os.getcwd())
        self._starting[actor.machine.remote()] = actor

    def _finished(self, busy: dict[Any, Any]) -> list[Any]:
        """Answers that have come, and those of workers whose machine is gone: Ray does not always fail them."""
        asked = busy | self._starting
        done, _ = ray.wait(list(asked), num_returns=1, timeout=WAIT)
        if time.monotonic() - self._looked > WAIT:
            gone = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
            done += [each for each, actor in asked.items() if self._machines.get(actor) in gone]
            self._looked = time.monotonic()
        return list(dict.fromkeys(done))

    def _replace(self, actor: Any) -> None:
        """A new actor for one that died or does not answer."""
        self._machines.pop(actor, None)
        ray.kill(actor)
        self._start()

    def _doubt(self) -> None:
        """One worker was lost, perhaps with its machine: idle ones get no job before they have answered again."""
        while self._idle:
            actor = self._idle.pop()
            self._starting[actor.machine.remote()] = actor

    def _settle(self, reference: Any) -> None:
        """An actor has started, or died at it; one that raised will not start elsewhere either."""
        actor = self._starting.pop(reference)
        try:
            self._machines[actor] = ray.get(reference, timeout=FETCH)
        except ray.exceptions.RayError as error:
            self._deaths += actor not in self._machines
            if "__init__" in str(error) or self._deaths == STARTS:
                raise RunError(f"a worker could not start: {last_line(error)}; `evolve check` shows more") from error
            self._replace(actor)
        else:
            self._deaths = 0
            self._idle.append(actor)

    def _nowhere(self) -> RunError:
        workers = self._workers
        return RunError(
            f"run.workers: no worker could start on {self._config.run.address} within {PLACING:.0f} s; each needs "
            f"{workers.threads} cores, {workers.gpus:g} GPU and {workers.memory / 2**30:.1f} GiB of the cluster's "
            "memory; ask for other `workers`, or free or add machines (`ray status`)"
        )


LOST = Failure("worker died", "the process that evaluated it ended twice, or its machine was lost")


def answer(reference: Any) -> Evaluation:
    """What a worker answers, or LOST."""
    try:
        evaluation: Evaluation = ray.get(reference, timeout=FETCH)
    except ray.exceptions.RayTaskError as error:
        return Evaluation(Failure("error", last_line(error)))
    except ray.exceptions.RayError:
        return Evaluation(LOST)
    return evaluation


def connect(address: str, workers: Workers | None, stack: contextlib.ExitStack) -> None:
    """Join the cluster at `address`, or start one on this machine; closing `stack` leaves or ends it."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    # Ray's own default lets workers give way to everything else on a machine: beside other work they would starve.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address != "local":
        stack.callback(ray.shutdown)
        try:
            probe(address)
            with own_signals(), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # what it warns of is what the error says
                ray.init(address=address, namespace="merge-evolve", **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(
                f"run.address ({address}): no Ray cluster answers ({first_line(error)}); "
                "start one with `ray start --head`, or use `address: local`"
            ) from error
        return
    if workers is None:
        raise RuntimeError("workers on this machine are counted before Ray starts")
    # A folder of its own: a stale cluster's files elsewhere cannot be joined by mistake. Sockets need short paths.
    temporary = stack.enter_context(scratch())
    stack.callback(ray.shutdown)
    with own_signals():
        ray.init(
            address="local",
            num_cpus=workers.count * workers.threads,
            num_gpus=usable_gpus() if workers.gpus else 0,
            object_store_memory=100 * 2**20,  # weights never pass through it: workers map the files themselves
            include_dashboard=False,
            _temp_dir=str(temporary),
            _memory=int(workers.count * workers.memory * 1.01) + 1,
            **quiet,
        )


def probe(address: str) -> None:
    """Raises OSError where nothing listens at host:port; Ray itself asks for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE).close()


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Keeps our way to end: Ray's own handlers of SIGTERM exit with 15 or abort with a trace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None  # Ray's handler, while it was in force
    finally:
        signal.signal(signal.SIGTERM, before)


def cluster_workers(config: SearchConfig, memory: int) -> Workers:
    """For the cluster that this process joined: one worker a GPU, else one a core where memory bears it."""
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Node(*(int(offer.get(kind, 0)) for kind in ("CPU", "GPU", "memory"))) for offer in offers]
    wanted = config.run.workers
    return spread_workers(nodes, None if wanted == "auto" else int(wanted), memory)


def shareable(config: SearchConfig) -> SearchConfig:
    """Without the storage, whose password is nothing for a cluster's logs and workers."""
    return config.model_copy(update={"run": config.run.model_copy(update={"storage": None})})


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
