"""A Ray cluster of two nodes, here on one machine: the same trials, also when a node is lost."""

from __future__ import annotations

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

from tests.end_to_end.conftest import ROOT, Config, command, environment, evolve
from tests.end_to_end.test_run import trials_of

# Nodes of one machine tell each other apart by their addresses on the loopback.
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_DISABLE_IMPORT_WARNING": "1"}
PATIENCE = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """One `ray start --block` with one core. Ended by its process ids: `ray stop` would end every Ray there is."""

    def __init__(self, *words: str, log: Path) -> None:
        ray = Path(sys.executable).with_name("ray")
        general = ("--num-cpus", "1", "--num-gpus", "0", "--object-store-memory", "100000000", "--block")
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [str(ray), "start", *words, *general, "--disable-usage-stats"],
                env=environment() | RAY,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.log = log

    def ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while "Ray runtime started" not in (said := self.log.read_text()):
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


@pytest.fixture
def cluster() -> Iterator[tuple[str, Node]]:
    """The address of a cluster, and its second node."""
    scratch = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))  # short: Ray puts sockets there
    address = f"127.0.0.1:{free_port()}"
    place = ("--temp-dir", str(scratch / "ray"), "--include-dashboard", "false")
    head = Node(
        "--head", "--node-ip-address", "127.0.0.1", "--port", address.split(":")[1], *place, log=scratch / "head"
    )
    nodes = [head]
    try:
        head.ready()
        nodes.append(Node("--address", address, "--node-ip-address", "127.0.0.2", log=scratch / "second"))
        nodes[1].ready()
        yield address, nodes[1]
    finally:
        for node in reversed(nodes):
            node.kill()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_gives_the_same_trials(
    cluster: tuple[str, Node], config: Config, search_file: Callable[[Config], Path], tmp_path: Path
) -> None:
    address, second = cluster
    config["search"]["trials"] = 32
    done = evolve("run", search_file(config))
    assert done.returncode == 0, done.stderr

    config["name"] = "cluster"
    config["run"] |= {"workers": 2, "address": address}
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as said, err.open("w") as errors:
        run = subprocess.Popen(
            command("run", search_file(config)), cwd=ROOT, env=environment() | RAY, stdout=said, stderr=errors
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (evaluating(second) and "search: 1" in out.read_text()):
            assert run.poll() is None, err.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.01)
        second.kill()
        assert run.wait(PATIENCE) == 0, err.read_text()
    finally:
        run.kill()
        run.wait()
    assert f"2 workers with 1 thread each, on Ray ({address})" in out.read_text()
    assert err.read_text() == ""
    results = tmp_path / "results"
    assert trials_of(results / "cluster") == trials_of(results / "small")
    assert (results / "cluster" / "best.yaml").read_text() == (results / "small" / "best.yaml").read_text()


def evaluating(node: Node) -> bool:
    """Whether a worker of this node evaluates a candidate now."""
    for each in psutil.Process(node.process.pid).children(recursive=True):
        try:
            if "ray::Worker.evaluate" in " ".join(each.cmdline()):
                return True
        except psutil.Error:
            continue
    return False
