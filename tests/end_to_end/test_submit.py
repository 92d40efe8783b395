"""From a working folder of its own to a running head that wants a token: sent, cut off, found again, stopped, continued
and brought home. The cluster is one real Ray node with its job server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine.checkpoint import open_checkpoint
from tests.end_to_end.conftest import DEMO, Config, command, environment
from tests.end_to_end.test_cluster import Node, free_port

TOKEN = "0123456789abcdef" * 4
PATIENCE = 400.0  # seconds: on a busy machine everything of Ray takes its time


class Head(Node):
    """A head with a job server and a client server, that wants TOKEN. Ray's own commands are not on its PATH."""

    def __init__(self, scratch: Path) -> None:
        ports = [free_port() for _ in range(4)]
        self.address, self.client = f"http://127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
        self.driver = f"127.0.0.1:{ports[2]}"  # where a driver joins
        words = {
            "--dashboard-host": "127.0.0.1",
            "--dashboard-port": ports[0],
            "--ray-client-server-port": ports[1],
            "--port": ports[2],
            "--dashboard-agent-listen-port": ports[3],
            "--temp-dir": scratch / "ray",
            "--num-cpus": 1,
            "--num-gpus": 0,
            "--object-store-memory": 100_000_000,
        }
        program = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"]
        self.log = scratch / "head"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [*map(str, program), *(str(word) for pair in words.items() for word in pair)],
                env=environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PATH": "/usr/bin:/bin"},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


@pytest.fixture
def head() -> Iterator[Head]:
    scratch = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))  # short: Ray puts sockets there
    made = Head(scratch)
    try:
        made.ready()
        yield made
    finally:
        made.kill()
        shutil.rmtree(scratch, ignore_errors=True)


class Laptop:
    """A working folder with a search and tasks of its own, from which the command line is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._number = 0

    def environment(self, token: str) -> dict[str, str]:
        kept = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
        return kept | {"RAY_AUTH_TOKEN": token}

    def begin(self, *words: object, token: str = TOKEN) -> tuple[subprocess.Popen[str], Path]:
        """The command, and the file of what it says; errors stand in the one of the same name and `.err`."""
        self._number += 1
        out = self.folder / f"said-{self._number}"
        with out.open("w") as said, out.with_suffix(".err").open("w") as errors:
            process = subprocess.Popen(
                command(*words), cwd=self.folder, env=self.environment(token), stdout=said, stderr=errors, text=True
            )
        return process, out

    def do(self, *words: object, token: str = TOKEN) -> tuple[int, str, str]:
        process, out = self.begin(*words, token=token)
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
        return code, out.read_text(), out.with_suffix(".err").read_text()


@pytest.fixture
def laptop(tmp_path: Path, config: Config) -> Laptop:
    made = Laptop(tmp_path / "laptop")
    tasks = made.folder / "own/tasks"
    tasks.mkdir(parents=True)
    for name in ("demo_reverse", "demo_pick"):
        text = (DEMO / f"{name}.yaml").read_text()
        (tasks / f"own_{name}.yaml").write_text(text.replace(name, f"own_{name}").replace("tasks/demo/", "own/data/"))
        (made.folder / "own/data").mkdir(exist_ok=True)
        shutil.copy(DEMO / f"{name}.jsonl", made.folder / f"own/data/own_{name}.jsonl")
    for task in config["score"]["tasks"]:
        task["task"] = f"own_{task['task']}"
    config["score"]["include"] = ["own/tasks"]
    config["models"]["sources"] = config["models"]["sources"][:2]  # few plain merges to score in the end
    config["space"] = {"method": "task_arithmetic", "layers": 1}
    config["run"]["output"] = str(tmp_path / "there")
    return made


def write(laptop: Laptop, config: Config, trials: int) -> None:
    config["search"]["trials"] = trials
    (laptop.folder / "search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def until(text: str, out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while text not in out.read_text():
        assert process.poll() is None, out.read_text() + out.with_suffix(".err").read_text()
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_is_sent_followed_stopped_continued_and_fetched(
    head: Head, laptop: Laptop, config: Config, tmp_path: Path
) -> None:
    write(laptop, config, 5000)  # more than this test waits for
    at = ("--address", head.address)
    code, _, errors = laptop.do("submit", "search.yaml", *at, token="f" * 64)
    assert (code, errors.count("\n")) == (2, 1)
    assert "the cluster wants its token" in errors
    for closed in (head.driver, head.client):
        code, _, errors = laptop.do("run", "search.yaml", "--address", closed, token="f" * 64)
        assert (code, errors.count("\n")) == (2, 1)
        assert "the cluster wants its token" in errors
    code, _, errors = laptop.do("submit", "search.yaml", "--address", f"http://{head.driver}")
    assert (code, errors.count("\n"), "is no job server" in errors) == (2, 1, True)

    cut, out = laptop.begin("submit", "search.yaml", *at)
    try:
        until("search: 1 of 5000", out, cut)
    finally:
        cut.kill()  # no word to the cluster: the connection is gone
        cut.wait()

    again, out = laptop.begin("submit", "search.yaml", *at)
    try:
        until("search: 1 of 5000", out, again)
        assert "small is at work at" in out.read_text()
        code, _, errors = laptop.do("fetch", "small", *at, "--client", head.client)
        assert (code, "small: is still at work" in errors) == (2, True)
        config["seed"] = 1
        write(laptop, config, 5000)
        code, _, errors = laptop.do("submit", "search.yaml", *at, "--detach")
        assert (code, "small: another search of this name is at work" in errors) == (2, True)
        code, said, errors = laptop.do("stop", "small", *at)
        assert (code, "small: stopped" in said) == (0, True), errors
        assert again.wait(PATIENCE) == 130
        assert "`evolve submit` of the same search goes on from there" in out.read_text()
    finally:
        again.kill()
        again.wait()

    config["seed"] = 0
    write(laptop, config, 20)  # the budget is used up by now
    code, said, errors = laptop.do("submit", "search.yaml", *at)
    assert code == 0, said + errors
    assert "going on after" in said
    code, said, errors = laptop.do("fetch", "small", *at, "--client", head.client)
    assert code == 0, errors
    assert "every digest verified: results/small" in said
    home, there = laptop.folder / "results/small", tmp_path / "there/small"
    for name in ("best.yaml", "report.md", "study.db"):
        assert (home / name).read_bytes() == (there / name).read_bytes()
    brought, left = (open_checkpoint(str(each / "checkpoint")) for each in (home, there))
    assert brought.fingerprint() == left.fingerprint()

    config["models"]["sources"][0] = str(tmp_path / "none")  # another run, which cannot begin
    write(laptop, config | {"name": "wrong"}, 20)
    code, _, errors = laptop.do("submit", "search.yaml", *at)
    assert (code, "there is no such" in errors or "no such folder" in errors) == (2, True)
    logs = head.log.parent / "ray/session_latest/logs"
    assert not [path for path in logs.rglob("*") if path.is_file() and TOKEN in path.read_text(errors="ignore")]
