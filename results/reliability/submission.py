"""A run sent from a machine that has nothing to do with the cluster, with everything cut that can be cut.

    python results/reliability/submission.py                              # from the root
    python results/reliability/submission.py --client .clean/bin/python   # the client in an environment of its own

The cluster is one `ray start --head` of this Python, with a token, that runs until the end. The client has a home, a
working folder, a task folder and an environment of its own (`python -m venv .clean`, then
`.clean/bin/pip install -c constraints.txt .`), no copy of this project on its path, and reaches the head through relays
that can be cut as a network can. Shown step by step: what was done, what the client saw, how long it took. Writes
submission.json and submission.md beside itself.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO = ROOT / "tasks" / "demo"
TOKEN = "0123456789abcdef" * 4
PATIENCE = 900.0  # seconds for one step
CUT = 20.0  # seconds without a network


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Relay:
    """Passes connections on to a port of the head, until it is cut."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.open()

    def open(self) -> None:
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        for each in [self._listening, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listening.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Head:
    """A cluster of one node, ended by its process ids."""

    def __init__(self, scratch: Path) -> None:
        self.server, self.client = free_port(), free_port()
        words = {
            "--dashboard-host": "127.0.0.1",
            "--dashboard-port": self.server,
            "--ray-client-server-port": self.client,
            "--port": free_port(),
            "--dashboard-agent-listen-port": free_port(),
            "--temp-dir": scratch / "ray",
            "--num-cpus": 2,
            "--num-gpus": 0,
            "--object-store-memory": 500_000_000,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        program = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"]
        self.log = scratch / "head"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [*map(str, program), *(str(word) for pair in words.items() for word in pair)],
                env=kept | secret,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        wait_for(lambda: "Ray runtime started" in self.log.read_text(), "the head")

    def end(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


class Client:
    """A home and a working folder with a search and tasks; its commands, and what they say."""

    def __init__(self, python: str, folder: Path, output: Path, address: str) -> None:
        self.python, self.folder, self.address = python, folder, address
        self.output = output
        (folder / "home").mkdir(parents=True)
        (folder / "own").mkdir()
        for name in ("demo_reverse", "demo_pick"):
            text = (DEMO / f"{name}.yaml").read_text(encoding="utf-8")
            text = text.replace(name, f"own_{name}").replace("tasks/demo/", "own/")
            (folder / f"own/own_{name}.yaml").write_text(text, encoding="utf-8")
            shutil.copy(DEMO / f"{name}.jsonl", folder / f"own/own_{name}.jsonl")
        self._number = 0

    def search(self, trials: int) -> None:
        config: dict[str, Any] = {
            "name": "sent",
            "models": {
                "base": str(DEMO / "models/base"),
                "sources": [str(DEMO / "models" / name) for name in ("reverse", "sort", "pick")],
            },
            "space": {"method": ["ties", "task_arithmetic"], "layers": 2, "modules": ["mlp"]},
            "score": {
                "tasks": [
                    {"task": "own_demo_reverse", "metric": "exact_match"},
                    {"task": "own_demo_pick", "metric": "acc"},
                ],
                "include": ["own"],
                "documents": {"search": 32, "selection": 64, "report": 64},
                "dtype": "float32",
            },
            "search": {"trials": trials, "population": 8, "finalists": 2, "stop_early": False},
            "run": {"workers": 2, "output": str(self.output)},
        }
        (self.folder / "search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def begin(self, *words: str) -> tuple[subprocess.Popen[str], Path]:
        self._number += 1
        said = self.folder / f"said-{self._number}"
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder / "home"), "RAY_AUTH_TOKEN": TOKEN,
                       "OMP_NUM_THREADS": "1"}  # fmt: skip
        with said.open("w") as file:
            command = [self.python, "-m", "evolve", *words, "--address", self.address]
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True
            ), said

    def do(self, *words: str) -> tuple[int, str]:
        process, said = self.begin(*words)
        code = process.wait(PATIENCE)
        return code, said.read_text()


def wait_for(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)


def log_of(text: str) -> list[str]:
    """The run's own lines."""
    lines = text.splitlines()
    first = next((index for index, line in enumerate(lines) if line.startswith("sent: checking")), len(lines))
    return lines[first:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--client", default=sys.executable, help="the client's Python, with merge-evolve in it")
    parser.add_argument("--large", type=float, default=2.0, help="GiB of the file that is fetched")
    options = parser.parse_args()
    client_python = str(Path(options.client).absolute())
    steps: list[dict[str, Any]] = []

    def step(what: str, begun: float, **seen: Any) -> None:
        steps.append({"step": what, "seconds": round(time.monotonic() - begun, 1), **seen})
        print(json.dumps(steps[-1]), flush=True)

    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as text:
        scratch = Path(text)
        begun = time.monotonic()
        head = Head(scratch)
        step("start the head", begun)
        try:
            shown(client_python, scratch, head, options.large, step)
        finally:
            head.end()
    about = {"steps": steps, "own environment": client_python != str(Path(sys.executable).absolute())}
    (HERE / "submission.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    rows = "\n".join(f"| {each['step']} | {said(each)} | {each['seconds']} |" for each in steps)
    table = f"| step | seen | seconds |\n|---|---|---|\n{rows}\n"
    (HERE / "submission.md").write_text(table, encoding="utf-8")


def said(each: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in each.items() if name not in ("step", "seconds"))


def shown(python: str, scratch: Path, head: Head, large: float, step: Callable[..., None]) -> None:
    server, client_server = Relay(head.server), Relay(head.client)
    client = Client(python, scratch / "laptop", scratch / "there", f"http://127.0.0.1:{server.port}")
    through = ("--client", f"ray://127.0.0.1:{client_server.port}")

    begun = time.monotonic()
    client.search(5000)
    first, out = client.begin("submit", "search.yaml")
    wait_for(lambda: "search: 1 of" in out.read_text(), "the first candidate")
    step("submit with an own task folder; the log is followed to the first candidate", begun)
    first.kill()
    first.wait()

    begun = time.monotonic()
    second, out = client.begin("submit", "search.yaml")
    wait_for(lambda: "search: 1 of" in out.read_text(), "the log after the cut")
    attached = "is at work at" in out.read_text()
    step("client killed with SIGKILL; the same command again", begun, attached=attached)

    begun = time.monotonic()
    before = len(log_of(out.read_text()))
    server.cut()
    wait_for(lambda: "does not answer; trying again" in out.read_text(), "the cut")
    time.sleep(CUT)
    server.open()
    wait_for(lambda: len(log_of(out.read_text())) > before + 3, "the log after the network came back")
    step(f"the network cut for {CUT:.0f} s under a following client", begun, alive=second.poll() is None)

    begun = time.monotonic()
    code, _ = client.do("stop", "sent")
    followed = second.wait(PATIENCE)
    step("stop", begun, code=code, **{"code of the following client": followed})
    kept = [line for line in log_of(out.read_text()) if "does not answer" not in line]
    _, again = client.do("follow", "sent")
    same = kept == log_of(again)
    step("the log as it was followed through the cut, and read again from its beginning", begun, same=same)

    begun = time.monotonic()
    client.search(20)
    code, text = client.do("submit", "search.yaml")
    step("submit with a budget that is used up: finalists, checkpoint, report", begun, code=code,
         continued="going on after" in text)  # fmt: skip

    begun = time.monotonic()
    code, _ = client.do("fetch", "sent", *through)
    home, there = client.folder / "results/sent", scratch / "there/sent"
    step("fetch", begun, code=code, **{"files that differ": differing(home, there)})

    fetched_large(client, scratch, through, client_server, large, step)
    logs = [path for path in (scratch / "ray").rglob("*") if path.is_file() and not path.is_symlink()]
    leaks = sum(TOKEN in path.read_text(errors="ignore") for path in logs if path.stat().st_size < 50e6)
    step("look for the token in all that Ray wrote", time.monotonic(), **{"files with it": leaks})


def fetched_large(
    client: Client, scratch: Path, through: tuple[str, ...], relay: Relay, size: float, step: Callable[..., None]
) -> None:
    """A checkpoint of this many GiB, fetched with one cut in the midst."""
    folder = scratch / "large/checkpoint"
    folder.mkdir(parents=True)
    block = os.urandom(1 << 20)
    with (folder / "model.safetensors").open("wb") as file:
        for number in range(int(size * 1024)):
            file.write(number.to_bytes(8, "big") + block[8:])
    begun = time.monotonic()
    words = ("fetch", "large", "--from", str(folder.parent), *through)
    cut, _ = client.begin(*words)
    coming = client.folder / "results/.large.fetching/checkpoint/.model.safetensors.unfinished"
    wait_for(lambda: coming.exists() and coming.stat().st_size > size * 2**29, "half of the file")
    cut.kill()
    cut.wait()
    half = coming.stat().st_size
    step(f"fetch a checkpoint of {size:g} GiB; killed after half", begun,
         **{"MiB/s": round(half / 2**20 / (time.monotonic() - begun)),
            "under its name": (client.folder / "results/large").exists()})  # fmt: skip
    begun = time.monotonic()
    relayed, out = client.begin(*words)
    wait_for(lambda: coming.stat().st_size > size * 2**29 * 1.4, "some more of the file")
    relay.cut()
    code = relayed.wait(PATIENCE)
    relay.open()
    step(
        "the same command; its network cut", begun, code=code, said=f"`{out.read_text().strip().splitlines()[-1][:90]}`"
    )
    begun = time.monotonic()
    kept = coming.stat().st_size
    code, _ = client.do(*words)
    step("the same command", begun, code=code, **{"kept MiB": round(kept / 2**20),
         "files that differ": differing(client.folder / "results/large", folder.parent)})  # fmt: skip


def differing(home: Path, there: Path) -> int:
    """Files of the fetched folder that are not, byte for byte, those on the cluster."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return sum(digest(path) != digest(there / path.relative_to(home)) for path in files) + (not files)


def digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hashed.update(block)
    return hashed.hexdigest()


if __name__ == "__main__":
    main()
