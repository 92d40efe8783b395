"""Evaluating jobs on a Ray cluster, on this machine or many.

A worker that dies, alone or with its machine, or takes too long, is replaced and its job tried once more; what comes
back is yielded as it comes, so the order never depends on the number of workers.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from evolve.config.search_yaml import SearchConfig
from evolve.trial import Evaluation, Failure, Job
from evolve.workers.awaiting import Awaiting
from evolve.workers.dispatch import Dispatch, Loss, Try
from evolve.workers.fleet import FETCH, PLACING, WAIT, Fleet, Placement, Seat, node_of
from evolve.workers.interruption import INTERRUPTION
from evolve.workers.joining import connect
from evolve.workers.reaching import last_line
from evolve.workers.sizing import Workers, spread_kinds
from evolve.workers.time_limit import NO_LIMIT, TimeLimit

HEED = 0.5  # seconds between two looks for a Ctrl-C while nothing is evaluated


@dataclass(frozen=True)
class Busy:
    """A worker with what it evaluates, and when that takes too long."""

    seat: Seat
    tried: Try
    due: float


class RayExecutor:
    """Actors as `workers` says (None: as the cluster bears); a job goes to whichever is free."""

    def __init__(
        self,
        config: SearchConfig,
        workers: Workers | None,
        memory: int,
        *,
        limit: TimeLimit = NO_LIMIT,
        placed: Callable[[Placement], None] = lambda _: None,
        ready: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`memory`: bytes of a worker; `placed` is told where the workers are, whenever that has changed; `ready` that
        one of them can work; `say` what is waited for."""
        self._address, self._limit, self._ready = config.run.address, limit, ready
        self._stack = contextlib.ExitStack()
        try:
            connect(self._address, workers, self._stack)
            self._kinds = (workers,) if workers else cluster_kinds(config, memory)
            grows = workers is None and config.run.workers == "auto"
            self._fleet = Fleet(shareable(config), self._kinds, grows=grows, told=placed)
            self._awaiting = Awaiting(say, self._fleet.room)
        except BaseException:
            self._stack.close()
            raise

    def describe(self) -> str:
        return f"{' and '.join(kind.text for kind in self._kinds)}, on Ray ({self._address})"

    def placement(self) -> Placement:
        """Where the workers are now."""
        return self._fleet.placement()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        dispatch = Dispatch(jobs, self._limit.minutes)
        busy: dict[Any, Busy] = {}
        come: list[Any] = []  # answers that are not handed on yet
        handed: set[Any] = set()  # those whose answer is being taken or recorded
        deadline = time.monotonic() + PLACING
        try:
            with INTERRUPTION.finishing(lambda: len(busy.keys() | handed)):
                while True:
                    if INTERRUPTION.asked:
                        dispatch.stop()
                    self._give(dispatch, busy)
                    if not busy and not dispatch.more:
                        return
                    if busy:
                        deadline = time.monotonic() + PLACING
                    elif time.monotonic() > deadline:
                        raise self._fleet.nowhere()
                    come = come or self._come(busy)
                    # One at a time: what is asked for next may depend on it.
                    finished = self._finished(come.pop(0), dispatch, busy, handed) if come else None
                    if finished is not None:
                        yield finished
                    handed.clear()
        except (Exception, GeneratorExit):
            # Whoever looks no further leaves workers at work, who get the next job when they are done.
            self._fleet.ask([each.seat for each in busy.values()])
            raise

    def close(self) -> None:
        self._stack.close()  # ends Ray, or leaves the cluster; the actors end with it

    def _give(self, dispatch: Dispatch, busy: dict[Any, Busy]) -> None:
        """A job for each worker that is free, as long as there are any."""
        while self._fleet.idle and dispatch.more:
            tried = dispatch.next()
            if tried is not None:
                # The one that has just finished may hold this candidate's weights. What was lost with a machine goes
                # to the one that is free for longest: the newest machine may be the next to be taken away.
                seat = self._fleet.idle.pop(0 if tried.losses else -1)
                due = time.monotonic() + self._limit.seconds(tried.job)
                busy[seat.evaluate(tried)] = Busy(seat, tried, due)

    def _come(self, busy: dict[Any, Busy]) -> list[Any]:
        """Answers that have come, and those that will not or take too long."""
        first = min((each.due for each in busy.values()), default=0.0)
        patience = min(WAIT, max(0.0, first - time.monotonic())) if busy else HEED
        done, _ = ray.wait([*busy, *self._fleet.starting], num_returns=1, timeout=patience)
        self._fleet.look()
        # On this machine Ray was started with room for all.
        placeless = 0 if self._address == "local" else self._fleet.placeless()
        self._awaiting.look(placeless, len(busy) + len(self._fleet.idle))
        gone = self._fleet.gone
        done += [each for each, seat in self._fleet.starting.items() if seat.machine in gone]
        done += [each for each, at in busy.items() if at.seat.machine in gone or at.due < time.monotonic()]
        return list(dict.fromkeys(done))

    def _finished(
        self, reference: Any, dispatch: Dispatch, busy: dict[Any, Busy], handed: set[Any]
    ) -> tuple[Job, Evaluation] | None:
        """A job with what came of it; None where a worker has started, or was lost and its job is tried once more, or
        is at work still. What leaves `busy` is in `handed` by then: a signal may come in between."""
        if reference in self._fleet.starting:
            self._fleet.settle(reference)
            if self._fleet.idle:
                self._ready()
        if reference not in busy:
            return None
        found = self._answer(reference, busy[reference])
        if found is None:
            return None
        handed.add(reference)
        at = busy.pop(reference)
        if isinstance(found, Evaluation):
            self._fleet.idle.append(at.seat)
            return at.tried.job, found
        self._fleet.replace(at.seat)
        if found != "time":
            self._fleet.doubt()
        failure = dispatch.lost(at.tried, found)
        return None if failure is None else (at.tried.job, Evaluation(failure))

    def _answer(self, reference: Any, at: Busy) -> Evaluation | Loss | None:
        """What a worker answers, or how it was lost; None where it is at work, its machine having been missed for a
        moment only."""
        if not ray.wait([reference], timeout=0)[0]:
            overdue: Loss | None = "time" if at.due < time.monotonic() else None
            return "machine" if at.seat.machine in self._fleet.gone else overdue
        try:
            evaluation: Evaluation = ray.get(reference, timeout=FETCH)
        except ray.exceptions.RayTaskError as error:
            return Evaluation(Failure("error", last_line(error)))
        except ray.exceptions.RayError as error:
            return self._fleet.loss(at.seat, error)
        return evaluation


def cluster_kinds(config: SearchConfig, memory: int) -> tuple[Workers, ...]:
    """For the cluster that this process joined: one worker a GPU, else one a core where memory bears it."""
    nodes = [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    wanted = config.run.workers
    return spread_kinds(nodes, None if wanted == "auto" else int(wanted), memory, cpus=config.run.cpu_workers)


def shareable(config: SearchConfig) -> SearchConfig:
    """Without the storage, whose password is nothing for a cluster's logs and workers."""
    return config.model_copy(update={"run": config.run.model_copy(update={"storage": None})})
