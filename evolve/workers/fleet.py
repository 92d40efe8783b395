"""The workers of a run on a Ray cluster: where they are, how they start, and who takes the place of the lost.

A worker is an actor with an `Evaluator`. It is given jobs once it has started, so one that the cluster cannot place
holds nothing up; it starts when there is room. Where as many are wanted as the cluster bears, machines that join get
workers of their own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evolve.config.search_yaml import SearchConfig
from evolve.errors import RunError
from evolve.trial import Evaluation, Job
from evolve.workers.awaiting import without_room
from evolve.workers.control_group import memory_kills
from evolve.workers.dispatch import Loss, Try
from evolve.workers.executor import attempt
from evolve.workers.reaching import last_line
from evolve.workers.sizing import Node, Workers, bears

WAIT = 5.0  # seconds between two looks at the machines
FETCH = 60.0  # seconds in which a finished worker's answer must arrive
ASKING = 30.0  # seconds in which a machine must answer that lost a worker
PLACING = 900.0  # seconds without any worker at work, after which a run ends
STARTS = 5  # workers in a row that may die while they start, on machines that stay
NODE_DIED = "its node has died"  # what Ray says of such an actor

Placement = list[dict[str, Any]]


class Worker:
    """The actor: an evaluator, made where it runs. It tells its place before it makes that, which takes a while."""

    def __init__(self, config: SearchConfig, threads: int, folder: str) -> None:
        """`folder` is the driver's: paths of the configuration are relative to it, where this machine has it."""
        if os.path.isdir(folder):
            os.chdir(folder)
        from evolve.environment import limit_threads, quiet

        limit_threads(threads)
        quiet()
        self._config, self._threads = config, threads

    def place(self) -> str:
        """The node it runs on."""
        return str(ray.get_runtime_context().get_node_id())

    def load(self) -> tuple[str, int]:
        """Make the evaluator, then answer as `machine`."""
        from evolve.workers.evaluator import Evaluator

        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._evaluator = Evaluator(self._config, device=device, threads=self._threads)
        return self.machine()

    def machine(self) -> tuple[str, int]:
        """The node it runs on, and the `memory_kills` there; it answers once it has started."""
        return self.place(), memory_kills()

    def evaluate(self, job: Job, smaller: bool) -> Evaluation:
        """`smaller`: in batches of half the size."""
        return attempt(self._evaluator, job, smaller=smaller)


@dataclass(eq=False)
class Seat:
    """An actor, what it has, its machine, "" until it has a place, and whether it has ever been able to work."""

    actor: Any
    kind: Workers
    machine: str = ""
    started: bool = False

    def evaluate(self, tried: Try) -> Any:
        """The answer to come. The dashboard and the list of processes show the name."""
        task = self.actor.evaluate.options(name=f"Worker.evaluate {tried.job.key[:12]}")
        return task.remote(tried.job, tried.smaller)


class Fleet:
    """As many workers as the `kinds` say, each replaced when it is lost; more where `grows` and machines join.

    `told` learns where they are, whenever that has changed.
    """

    def __init__(
        self, config: SearchConfig, kinds: Sequence[Workers], *, grows: bool, told: Callable[[Placement], None]
    ) -> None:
        self._config, self._kinds, self._grows, self._tell = config, kinds, grows, told
        self._run = f"evolve {config.name}"
        self._job = ray.get_runtime_context().get_job_id()  # names are unique on a cluster
        # Behind a client's connection this process is no machine of the cluster.
        client = config.run.address.startswith("ray://")
        self._here = None if client else ray.get_runtime_context().get_node_id()
        self._begun = 0  # workers so far, which gives each a name
        self._seats: list[Seat] = []
        self._placement: Placement = []
        self._kills: dict[str, int] = {}  # machine -> `memory_kills` there, as last seen
        self._deaths = 0  # of workers that were starting, in a row
        self._looked = 0.0
        self.gone: set[str] = set()  # machines whose workers need not answer: Ray does not always fail what is asked
        self.starting: dict[Any, Seat] = {}  # answer to come -> seat
        self._placeless: dict[Any, Seat] = {}  # likewise, of those that no machine has taken yet
        self.idle: list[Seat] = []
        for kind in kinds:
            for _ in range(kind.count):
                self._start(kind)

    def settle(self, reference: Any) -> None:
        """A worker has started, or died at it; one that raised will not start elsewhere either."""
        seat = self.starting.pop(reference)
        if seat.machine in self.gone:
            self.replace(seat)
            return
        try:
            seat.machine, self._kills[seat.machine] = ray.get(reference, timeout=FETCH)
        except ray.exceptions.RayError as error:
            self._deaths += not (seat.started or NODE_DIED in str(error))
            # Code raised in a worker that lives; one that was killed gives other errors.
            raised = isinstance(error, ray.exceptions.RayTaskError) or "__init__" in str(error)
            if (raised and not isinstance(error, ray.exceptions.OutOfMemoryError)) or self._deaths == STARTS:
                raise RunError(f"a worker could not start: {last_line(error)}; `evolve check` shows more") from error
            self.replace(seat)
        else:
            self._deaths, seat.started = 0, True
            self.idle.append(seat)

    def replace(self, seat: Seat) -> None:
        """A new worker for one that died, or does not answer and is killed."""
        self._seats.remove(seat)
        ray.kill(seat.actor)
        self._start(seat.kind)

    def ask(self, seats: Sequence[Seat]) -> None:
        """These get no job before they have answered."""
        for seat in seats:
            self.starting[seat.actor.machine.remote()] = seat

    def doubt(self) -> None:
        """A worker was lost, perhaps with its machine, so those that are idle are asked whether they are there."""
        idle, self.idle = self.idle, []
        self.ask(idle)

    def loss(self, seat: Seat, error: Exception) -> Loss:
        """How a worker was lost. Ray tells of its own kills; the kernel's are counted on the machine."""
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return "memory"
        before, now = self._kills.get(seat.machine, 0), self._kills_on(seat.machine)
        if now is None:
            return "machine"
        self._kills[seat.machine] = now
        return "memory" if now > before else "died"

    def _kills_on(self, machine: str) -> int | None:
        """The `memory_kills` of a machine; None where it is lost."""
        if machine in self.gone or not any(node["Alive"] and node["NodeID"] == machine for node in ray.nodes()):
            return None
        if self._here == machine:
            return memory_kills()
        there = NodeAffinitySchedulingStrategy(machine, soft=False)
        asked = ray.remote(memory_kills).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
        try:
            return int(ray.get(asked.remote(), timeout=ASKING))
        except ray.exceptions.RayError:
            self.gone.add(machine)  # until the next look
            return None

    def look(self) -> None:
        """Now and then, which machines are gone or have joined; those that joined get workers."""
        if time.monotonic() - self._looked < WAIT:
            return
        nodes = ray.nodes()
        gone = {node["NodeID"] for node in nodes if not node["Alive"]}
        if gone - self.gone:
            self.doubt()
        self.gone = gone
        if self._grows:
            self._grow([node_of(node["Resources"]) for node in nodes if node["Alive"]])
        found = self.placement()
        if found != self._placement:
            self._placement = found
            self._tell(found)
        self._looked = time.monotonic()

    def placeless(self) -> int:
        """How many workers have no place yet."""
        placed, _ = (
            ray.wait([*self._placeless], num_returns=len(self._placeless), timeout=0) if self._placeless else ([], [])
        )
        for reference in placed:
            seat = self._placeless.pop(reference)
            with contextlib.suppress(ray.exceptions.RayError):  # which `settle` meets as well
                seat.machine = seat.machine or ray.get(reference, timeout=FETCH)
        return len(self._placeless)

    def room(self, count: int) -> str:
        """What is to be said of so many workers without a place."""
        return without_room(count, self._kinds, ray.cluster_resources(), ray.available_resources())

    def placement(self) -> Placement:
        """Where the workers are: of each machine its `node` (the address), "" of those that have no place yet, the
        `workers` on it, and `threads` and `gpus` of each."""
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        counted = Counter((addresses.get(seat.machine, seat.machine), seat.kind) for seat in self._seats)
        rows = sorted(counted.items(), key=lambda row: (row[0][0], -row[0][1].gpus))
        return [
            {"node": node, "workers": count, "threads": kind.threads, "gpus": kind.gpus} for (node, kind), count in rows
        ]

    def nowhere(self) -> RunError:
        """What to say when no worker could start."""
        kind = self._kinds[0]
        return RunError(
            f"run.workers: no worker could start on {self._config.run.address} within {PLACING:.0f} s; each needs "
            f"{kind.threads} cores, {kind.gpus:g} GPU and {kind.memory / 2**30:.1f} GiB of the cluster's "
            "memory; ask for other `workers`, or free or add machines (`ray status`)"
        )

    def _start(self, kind: Workers) -> None:
        self._begun += 1
        actor = ray.remote(Worker).options(
            name=f"{self._run} worker {self._begun} ({self._job})",
            num_cpus=kind.threads,
            num_gpus=kind.gpus,
            memory=kind.memory,
        )
        seat = Seat(actor.remote(self._config, kind.threads, os.getcwd()), kind)
        self._seats.append(seat)
        self._placeless[seat.actor.place.remote()] = seat
        self.starting[seat.actor.load.remote()] = seat

    def _grow(self, nodes: Sequence[Node]) -> None:
        """As many workers of each kind as these machines bear; those that left a machine wait for another one."""
        accelerated = any(kind.gpus for kind in self._kinds)
        for kind in self._kinds:
            due = sum(bears(node, kind, accelerated) for node in nodes)
            for _ in range(due - sum(seat.kind == kind for seat in self._seats)):
                self._start(kind)


def node_of(resources: dict[str, float]) -> Node:
    """A machine by Ray's list of what it has."""
    return Node(*(int(resources.get(kind, 0)) for kind in ("CPU", "GPU", "memory")))
