"""A Ray cluster of several nodes, here on one machine: the same trials, also when nodes come and go."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from evolve.config.budget import WORKING
from evolve.storage.ledger import START, Ledger
from tests.end_to_end.conftest import ROOT, Config, command, environment, evolve
from tests.end_to_end.test_run import trials_of

# Nodes of one machine tell each other apart by their addresses on the loopback.
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_DISABLE_IMPORT_WARNING": "1"}
PATIENCE = 240.0
HOURS = 0.001  # less than what it takes until waiting for room is said
STARTING = """
import contextlib, sys
from pathlib import Path
import ray
from evolve.config.search_yaml import load_config
from evolve.workers.fleet import Fleet
from evolve.workers.joining import connect
from evolve.workers.sizing import Workers

with contextlib.ExitStack() as stack:
    connect(sys.argv[2], None, stack)
    fleet = Fleet(load_config(Path(sys.argv[1])), (Workers(8, 1, 0, 2**20),), grows=False, told=lambda rows: None)
    first = dict(fleet.starting)
    print("starting", flush=True)
    while any(reference in fleet.starting for reference in first):
        done, _ = ray.wait([*fleet.starting], num_returns=1)
        for reference in done:
            fleet.settle(reference)
    print("started", len(fleet.idle), flush=True)
"""
HOLDING = """
import sys
import ray

ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=1)
class Holder:
    def hold(self):
        return True

holder = Holder.remote()
ray.get(holder.hold.remote())
print("held", flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """One `ray start --block`. Ended by its process ids: `ray stop` would end every Ray there is."""

    def __init__(self, *words: str, log: Path, cores: int = 1) -> None:
        ray = Path(sys.executable).with_name("ray")
        general = ("--num-cpus", str(cores), "--num-gpus", "0", "--object-store-memory", "100000000", "--block")
        self.words, self.log = [str(ray), "start", *words, *general, "--disable-usage-stats"], log
        self.start()

    def start(self) -> None:
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                self.words, env=environment() | RAY, stdout=file, stderr=file, start_new_session=True
            )

    def ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while "Ray runtime started" not in (said := self.log.read_text()):
            if self.process.poll() is not None and "timed out during startup" in said:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.start()  # Ray itself waits for 30 seconds, which a busy machine may need
            else:
                assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for each in family:
                try:
                    each.kill()
                except psutil.NoSuchProcess:
                    continue


class Cluster:
    """A head with one core, and nodes that join it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.address = f"127.0.0.1:{free_port()}"
        place = ("--temp-dir", str(scratch / "ray"), "--include-dashboard", "false")
        port = self.address.split(":")[1]
        self.nodes = [Node("--head", "--node-ip-address", "127.0.0.1", "--port", port, *place, log=scratch / "head")]

    def join(self, cores: int = 1) -> Node:
        number = len(self.nodes) + 1
        words = ("--address", self.address, "--node-ip-address", f"127.0.0.{number}")
        self.nodes.append(Node(*words, log=self._scratch / f"node{number}", cores=cores))
        return self.nodes[-1]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    scratch = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))  # short: Ray puts sockets there
    made = Cluster(scratch)
    try:
        made.nodes[0].ready()
        yield made
    finally:
        for node in reversed(made.nodes):
            node.kill()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.slow
def test_a_node_that_joins_is_used_and_one_that_leaves_changes_no_trial(
    cluster: Cluster, config: Config, search_file: Callable[[Config], Path], tmp_path: Path, gate: Path
) -> None:
    config["search"] |= {"trials": 24, "finalists": 1, "gradients": False, "simplify": False}
    done = evolve("run", search_file(config))
    assert done.returncode == 0, done.stderr

    config["name"] = "cluster"
    config["run"] |= {"workers": "auto", "address": cluster.address}
    gate.touch()
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as said, err.open("w") as errors:
        run = subprocess.Popen(
            command("run", search_file(config)), cwd=ROOT, env=environment() | RAY, stdout=said, stderr=errors
        )

    def until_evaluating(node: Node) -> None:
        deadline = time.monotonic() + PATIENCE
        while not evaluating(node):
            assert run.poll() is None, err.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.05)

    try:
        until_evaluating(cluster.nodes[0])
        second = cluster.join()
        second.ready()
        until_evaluating(second)
        second.kill()
        third = cluster.join()
        third.ready()
        until_evaluating(third)
        gate.unlink()
        assert run.wait(PATIENCE) == 0, err.read_text()
    finally:
        run.kill()
        run.wait()
    assert f"1 worker with 1 thread, on Ray ({cluster.address})" in out.read_text()
    assert err.read_text() == ""
    results = tmp_path / "results"
    assert trials_of(results / "cluster") == trials_of(results / "small")
    assert (results / "cluster" / "best.yaml").read_text() == (results / "small" / "best.yaml").read_text()


@pytest.mark.slow
def test_a_machine_that_leaves_while_its_workers_start_ends_no_run(
    cluster: Cluster, config: Config, search_file: Callable[[Config], Path]
) -> None:
    config["run"] |= {"address": cluster.address}
    second = cluster.join(cores=7)
    second.ready()
    words = [sys.executable, "-c", STARTING, str(search_file(config)), cluster.address]
    with subprocess.Popen(
        words, cwd=ROOT, env=environment() | RAY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        assert driver.stdout is not None
        try:
            said = driver.stdout.readline()
            assert said == "starting\n", said + driver.stdout.read()
            second.kill()
            assert driver.stdout.read().endswith("started 1\n")
        finally:
            driver.kill()


@pytest.mark.slow
def test_waiting_for_room_is_said_and_takes_none_of_the_hours(
    cluster: Cluster, config: Config, search_file: Callable[[Config], Path], tmp_path: Path
) -> None:
    config["search"] |= {"trials": 500, "hours": HOURS, "finalists": 1, "gradients": False, "simplify": False}
    config["run"] |= {"workers": 1, "address": cluster.address}
    words = [sys.executable, "-c", HOLDING, cluster.address]
    out = tmp_path / "out"
    with (
        out.open("w") as said,
        subprocess.Popen(words, env=environment() | RAY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder,
    ):
        try:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            run = subprocess.Popen(
                command("run", search_file(config)), cwd=ROOT, env=environment() | RAY, stdout=said, stderr=said
            )
            deadline = time.monotonic() + PATIENCE
            while "waiting for room: 1 worker of 1 core" not in out.read_text():
                assert run.poll() is None, out.read_text()
                assert time.monotonic() < deadline, out.read_text()
                time.sleep(0.1)
            holder.stdin.close()
            assert run.wait(PATIENCE) == 0, out.read_text()
        finally:
            holder.kill()
    told = out.read_text()
    assert "1 of 1 cores" in told
    assert "1 worker can work now" in told
    assert f"the search has ended: search.hours ({HOURS}) are over" in told
    ledger = Ledger(f"sqlite:///{tmp_path / 'results/small/study.db'}", "small", must_exist=True)
    (start,), (working,) = ledger.events(START), ledger.events(WORKING)
    assert working["at"] - start["at"] > HOURS * 3600, "it waited for longer than its hours"
    assert ledger.trials(), "and worked nevertheless"
    assert min(trial.finished for trial in ledger.trials()) > working["at"]


def evaluating(node: Node) -> bool:
    """Whether a worker of this node evaluates a candidate now."""
    for each in psutil.Process(node.process.pid).children(recursive=True):
        try:
            if "ray::Worker.evaluate" in " ".join(each.cmdline()):
                return True
        except psutil.Error:
            continue
    return False
