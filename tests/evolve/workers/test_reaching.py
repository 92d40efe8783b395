"""A cluster that wants a token says so before Ray is imported; here a server of its protocol."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from evolve.errors import RunError
from evolve.workers.reaching import MODE, current_cluster, own_token, reach, show_token

TOKEN = "0123456789abcdef" * 4


class Guard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Lets in whoever shows the token, as Ray's servers do."""

    def intercept_service(self, go_on: Callable[[Any], Any], call: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            if ("authorization", f"Bearer {TOKEN}") not in [
                (each.key, each.value) for each in call.invocation_metadata
            ]:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(MODE, "")  # so that it is put back
    for name in (MODE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    server = grpc.server(ThreadPoolExecutor(1), interceptors=(Guard(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("form", ["{}", "ray://{}", "auto"])
def test_a_missing_token_is_told_and_one_that_is_there_is_shown(
    form: str, guarded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", guarded)
    address = form.format(guarded)
    with pytest.raises(RunError, match=r"^run.address .*: the cluster wants its token"):
        show_token(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(RunError, match="was refused or is missing"):
        show_token(address)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(f"{TOKEN}\n", encoding="utf-8")
    monkeypatch.delenv(MODE)
    show_token(address)
    assert os.environ[MODE] == "token"
    monkeypatch.setenv(MODE, "disabled")
    with pytest.raises(RunError, match="wants its token"):
        show_token(address)


def test_who_does_not_answer_is_nothing_to_say_yet() -> None:
    for address in ("local", "127.0.0.1:1", "ray://127.0.0.1:1"):
        show_token(address)


def test_where_auto_leads(guarded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert current_cluster() == "127.0.0.1:6379"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("10.0.0.1:6380\n")
    assert current_cluster() == "10.0.0.1:6380"
    assert own_token() is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (404, "what answers there is no job server"),
        (405, "what answers there is no job server"),
        (502, r"no Ray cluster answers \(HTTP 502, Bad Gateway; its head may be starting still\)"),
        (503, r"no Ray cluster answers \(HTTP 503, Service Unavailable; "),
        (599, r"no Ray cluster answers \(HTTP 599; "),
    ],
)
def test_a_proxy_whose_cluster_does_not_answer_yet_is_no_wrong_address(code: int, said: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code, "\x1b[2J")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(RunError, match=said):
            reach(f"http://127.0.0.1:{server.server_port}")
        thread.join()
