"""Models of the Hub, from a server of the test's own that speaks what huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Make = Callable[..., str]
WEIGHTS = "model.safetensors"
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"

PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from engine.checkpoint import open_checkpoint
    from engine.errors import CheckpointError
    from engine.recipe import Recipe
    from engine.write import merge_to_folder
    for reference in sys.argv[2:]:
        try:
            checkpoint = open_checkpoint(reference)
            print("opened", float(checkpoint.read("model.norm.weight")[0]), checkpoint.folder)
        except CheckpointError as error:
            print("refused", error)
    if sys.argv[1]:
        recipe = {"merge_method": "linear", "models": [{"model": sys.argv[2], "parameters": {"weight": 1}}]}
        merge_to_folder(Recipe.model_validate(recipe), Path(sys.argv[1]))
    """
)


@dataclass
class Hub:
    """Repositories: {id: {revision: folder}}. `asked` holds the paths of all requests for files, `fetched` of those
    that were sent. Weights are sent once so many as `together` have asked for them."""

    repositories: dict[str, dict[str, Path]]
    gated: frozenset[str]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    together: int = 0

    def wait(self, path: str) -> None:
        deadline = time.monotonic() + 100
        while len([each for each in self.asked if each.endswith(WEIGHTS)]) < self.together and path.endswith(WEIGHTS):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.fetched.append(path)

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        parts = path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), parts[5]
        elif parts[2:3] != ["resolve"]:
            return 404, {}, b""  # what newer clients ask for besides
        else:
            name, revision = "/".join(parts[:2]), parts[3]
        folders = self.repositories.get(name)
        if folders is None:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": f"no {name} for {token}"}, b""
        if name in self.gated and token != TOKEN:
            return 403 if token else 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"not for {token}"}, b""
        commits = {commit(each): each for each in folders}
        revision = commits.get(revision, revision)
        if revision not in folders:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if parts[0] == "api":
            sizes = {each.name: each.stat().st_size for each in sorted(folders[revision].iterdir())} | {
                "../evil.json": 1
            }
            told: Any = {"id": name, "sha": commit(revision), "siblings": [{"rfilename": file} for file in sizes]}
            if parts[4] == "tree":
                told = [{"type": "file", "path": file, "size": size, "oid": file} for file, size in sizes.items()]
            return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()
        self.asked.append("/".join(parts))
        content = (folders[revision] / "/".join(parts[4:])).read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": commit(revision)}, content


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@pytest.fixture
def hub(make: Make, tmp_path: Path) -> Iterator[Hub]:
    def folder(name: str, value: float) -> Path:
        return Path(make(name, changes={"model.norm.weight": torch.full((8,), value)}))

    pickled = folder("pickled", 3.0)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    both = folder("both", 4.0)
    torch.save({"x": torch.ones(1)}, both / "pytorch_model.bin")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"base_model.model.model.norm.weight": torch.full((8,), 5.0)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6}))
    made = Hub(
        {
            "org/plain": {"main": folder("plain", 1.0), "v1": folder("plain-v1", 2.0)},
            "org/pickled": {"main": pickled},
            "org/both": {"main": both},
            "org/adapter": {"main": adapter},
            "org/gated": {"main": folder("gated", 6.0)},
        },
        frozenset({"org/gated"}),
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, headers, content = made.answer(self.path, token)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                made.wait(self.path)
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()


def ask(hub: Hub, home: Path, *references: str, out: str = "", token: str | None = None, **more: str) -> list[str]:
    """Open models in a process of its own, as the client reads its settings once; return a line for each."""
    home.mkdir(exist_ok=True)
    (home / "token").unlink(missing_ok=True)
    if token is not None:
        (home / "token").write_text(token)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "http"))}
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, out, *references],
        env={**kept, **settings, "PYTHONPATH": os.pathsep.join(sys.path), **more},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not token or token not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_ids_revisions_adapters_and_files_of_either_kind(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    references = (
        "org/plain", "org/plain@v1", f"org/plain@{commit('v1')}", "org/pickled", "org/both", "org/plain+org/adapter",
        "org/gated", "org/absent", "org/plain@v2",
    )  # fmt: skip
    told = ask(hub, home, *references)
    values = ["1.0", "2.0", "2.0", "3.0", "4.0", "5.0"]
    assert [line.split()[:2] for line in told[:6]] == [["opened", value] for value in values]
    for line, reference in zip(told[6:], references[6:], strict=True):
        assert line.startswith(f"refused {reference}: no such folder, and not to be had from the Hub")
        assert "token" in line
    files = [path.rpartition("/")[2] for path in hub.asked]
    assert "pytorch_model.bin" in files
    assert not any(path.startswith("org/both") and path.endswith(".bin") for path in hub.asked)
    assert not any("evil" in file for file in files)
    assert not list(tmp_path.rglob("evil*"))

    offline = ask(hub, home, *references[:6], "org/absent", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert [line.split()[:2] for line in offline[:6]] == [["opened", value] for value in values]
    assert offline[6].startswith("refused org/absent: ")
    assert "HF_HUB_OFFLINE" in offline[6]


def test_processes_that_need_a_model_at_once_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    hub.together = 4  # three that ask whether it has changed, and the one of them that fetches it
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda _: ask(hub, tmp_path / "home", "org/plain"), range(3)))
    assert [line.split()[:2] for (line,) in told] == [["opened", "1.0"]] * 3
    assert len([path for path in hub.fetched if path.endswith(WEIGHTS)]) == 1


def test_gated_models_open_with_the_stored_token_which_is_told_nowhere(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (opened,) = ask(hub, tmp_path / "home", "org/gated", out=str(out), token=TOKEN)
    assert opened.split()[:2] == ["opened", "6.0"]
    assert "org/gated" in (out / "README.md").read_text()
    assert (out / "model.safetensors").is_file()
    for path in out.iterdir():
        assert TOKEN.encode() not in path.read_bytes()
    wrong = "hf_wrongwrongwrongwrongwrong"
    told = ask(hub, tmp_path / "other", "org/gated", "org/absent", token=wrong)
    assert [line.split(": ")[0] for line in told] == ["refused org/gated", "refused org/absent"]
    assert "<token>" in told[0]  # where the server's answer held it
