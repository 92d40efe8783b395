"""What the client says and leaves with; the cluster itself is in tests/end_to_end/test_submit.py."""

from __future__ import annotations

import os
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from evolve.config.search_yaml import load_config
from evolve.errors import ConfigError, RunError
from evolve.submission.following import Log, follow
from evolve.submission.jobs import Job, Jobs, belongs
from evolve.submission.submit import code_of, environment_of, named
from evolve.workers.reaching import MODE, reach

DEMO = Path(__file__).parents[3] / "tasks/demo"

JOB = Job("evolve-1-run", 1, "run", "FAILED", None, "the node died", "ab", "digest", "~/results/run")


def test_the_runs_code_is_the_clients() -> None:
    assert code_of(replace(JOB, status="SUCCEEDED", code=0)) == 0
    assert [code_of(replace(JOB, code=code)) for code in (1, 2, 130)] == [1, 2, 130]
    assert code_of(replace(JOB, status="STOPPED")) == 130
    for job in (JOB, replace(JOB, code=-9)):
        with pytest.raises(RunError, match="was ended from outside, or never began: the node died"):
            code_of(job)


def test_runs_are_told_apart_by_their_whole_name() -> None:
    assert belongs("evolve-12-run", "run")
    assert belongs("evolve-1-2-run", "2-run")
    assert not belongs("evolve-1-2-run", "run")
    assert not belongs("raysubmit_x", "run")
    assert not belongs(None, "run")


def test_a_log_that_is_read_again_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.take("one\ntw", 0)
    log.take("one\n", 0)
    log.take("two\nthree\nerror: x\n", 4)
    log.take("last", 23)
    log.end()
    told = capsys.readouterr()
    assert told.out == "one\ntwo\nthree\nlast\n"
    assert told.err == "error: x\n"


def test_lines_of_rays_own_are_put_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.take(
        "2026-01-01 INFO job_manager.py:581 -- Runtime env is setting up.\nRunning entrypoint for job x: y\nz\n", 0
    )
    assert capsys.readouterr().out == "the cluster makes the environment ready\nz\n"


def test_environments() -> None:
    assert environment_of(None, None).entry.endswith(" cluster")
    assert environment_of("/opt/merging/", None).entry.endswith(" /opt/merging/bin/python")
    assert environment_of("/opt/my env/bin/python3.11", None).entry.endswith(" '/opt/my env/bin/python3.11'")
    pip = environment_of(None, "merge-evolve==0.1.0")
    assert pip.runtime == {"pip": ["merge-evolve==0.1.0"]}
    assert pip.entry.endswith(" job")
    with pytest.raises(ConfigError, match="give one of the two"):
        environment_of("/opt/merging", "merge-evolve")
    with pytest.raises(ConfigError, match="is no absolute path"):
        environment_of("merging", None)
    with pytest.raises(ConfigError, match="its URL holds a user or password"):
        environment_of(None, "merge-evolve @ git+https://me:token@host/x.git")


def test_a_run_may_have_another_name_there() -> None:
    config = load_config(DEMO / "search.yaml")
    assert named(config, None) is config
    assert named(config, "other").name == "other"
    with pytest.raises(ConfigError, match=r"--name: must be letters.* got 'a/b'"):
        named(config, "a/b")


def test_a_wheel_is_sent_under_its_contents(tmp_path: Path) -> None:
    wheel = tmp_path / "merge_evolve-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"one")
    first = environment_of(None, str(wheel))
    wheel.write_bytes(b"two")
    second = environment_of(None, str(wheel))
    (place,) = first.files
    assert first.runtime == {"pip": [f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{place}"]}
    assert set(first.files) != set(second.files)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="is no wheel"):
        environment_of(None, str(tmp_path / "notes.txt"))


@pytest.fixture
def unauthorized() -> Iterator[str]:
    """A server that wants a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_token_is_shown_where_it_is_wanted(unauthorized: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "disabled")
    reach(unauthorized)
    assert os.environ[MODE] == "disabled"
    monkeypatch.delenv(MODE)
    reach(unauthorized)
    assert os.environ[MODE] == "token"


@pytest.fixture
def anew() -> Iterator[str]:
    """A job server that was started anew: it knows no job."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/api/version"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0"}' if known else b"Job evolve-1-run does not exist")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call
def test_a_cluster_that_was_started_anew_is_not_waited_for(anew: str) -> None:
    with pytest.raises(RunError, match="knows the job evolve-1-run no longer"):
        follow(Jobs(anew), "evolve-1-run")


@pytest.mark.parametrize(
    "said", [b"\0\0\x18\4\0\0\0\0\0", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 404 None\r\n\r\n"]
)
def test_who_answers_and_is_no_job_server_is_told(said: bytes) -> None:
    """Ray's own port answers in another protocol (HTTP/2), other servers with pages of theirs."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                continue
            self.wfile.write(said)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(RunError, match=r"what answers there is no job server .* usual port is 8265"):
            reach(address)
        thread.join()


def test_nobody_there_is_one_message() -> None:
    with pytest.raises(RunError, match=r"--address \(http://127.0.0.1:1\): no Ray cluster answers"):
        reach("http://127.0.0.1:1")


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "http://me:pa55@head:8265", ""])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(RunError, match="is not the address of a job server") as caught:
        reach(address)
    assert "pa55" not in str(caught.value)
