"""Tokens and passwords stay where they were given: real runs, good and bad, and every file and line that they leave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
import pytest
import sqlalchemy

from tests.end_to_end.conftest import ROOT, Config, command, environment

pytestmark = pytest.mark.slow

PASSWORD = "pw-Tr0ub4dor&3/x"
SECRETS = {
    "HF_TOKEN": "hf_NeverToBeWritten0123456789abcdef",
    "HUGGING_FACE_HUB_TOKEN": "hf_NeitherThisOne0123456789abcdefg",
    "WANDB_API_KEY": "wandb0key0never0written",
    "MLFLOW_TRACKING_PASSWORD": "mlflow0password0never0written",
    "AWS_SECRET_ACCESS_KEY": "aws0key0never0written",
    "PGPASSWORD": "pgpassword0never0written",
}
FILED = "hf_InTheTokenFile0123456789abcdefgh"
ENDPOINT = "endpoint0password0never0written"
RAY_TOKEN = "ray0token0never0written0to0any0log0at0all"
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RAY_TOKEN, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
HIDDEN = (*SECRETS.values(), FILED, ENDPOINT, RAY_TOKEN, PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD))

SearchFile = Callable[[Config], Path]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment full of secrets."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text(FILED)
    return {**environment(), **SECRETS, "HF_HOME": str(tmp_path / "hub")}


@pytest.fixture
def storage(postgresql: str) -> str:
    """A database whose user has a password like no other text."""
    engine = sqlalchemy.create_engine(postgresql)
    with engine.begin() as connection:
        there = connection.execute(sqlalchemy.text("SELECT 1 FROM pg_roles WHERE rolname = 'merging'")).first()
        if not there:
            connection.execute(sqlalchemy.text(f"CREATE ROLE merging LOGIN SUPERUSER PASSWORD '{PASSWORD}'"))
    engine.dispose()
    where = urlsplit(postgresql)
    return f"postgresql+psycopg2://merging:{quote(PASSWORD, safe='')}@{where.hostname}:{where.port}{where.path}"


def run(*words: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)


def leaks(folder: Path, besides: Iterable[Path] = ()) -> list[str]:
    """Files with a secret in them, or in their names."""
    allowed = set(besides)
    found = []
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder)).encode()
        if path.is_file() and not path.is_symlink() and path not in allowed:
            text += path.read_bytes()
        found += [f"{path}: {secret}" for secret in HIDDEN if secret.encode() in text]
    return found


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [f"{done.args}: {secret}" for secret in HIDDEN if secret in done.stdout + done.stderr]


def stored(url: str) -> list[str]:
    """Secrets in any row of any table."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        tables = sqlalchemy.inspect(engine).get_table_names()
        rows = [str(row) for table in tables for row in connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"'))]
    engine.dispose()
    assert any("demo_reverse" in row for row in rows)
    return [row for row in rows if any(secret in row for secret in HIDDEN)]


def small(config: Config) -> None:
    config["score"]["tasks"] = config["score"]["tasks"][:1]
    config["score"]["documents"] = {"search": 4, "selection": 4, "report": 4}
    config["search"] |= {"trials": 8, "finalists": 1}


def test_a_run_on_this_machine(
    config: Config, search_file: SearchFile, tmp_path: Path, home: dict[str, str], storage: str
) -> None:
    small(config)
    config["run"]["storage"] = storage
    # Candidates that overflow, so that failures are recorded too.
    config["space"] = {"method": "task_arithmetic", "layers": 1, "parameters": {"weight": {"low": 1e39, "high": 1e40}}}
    config["search"]["trials"] = 12
    path, results = search_file(config), tmp_path / "results"
    dones = [run("check", path, "--no-time", env=home), run("run", path, env=home)]
    assert [done.returncode for done in dones] == [0, 0], dones
    dones += [run(word, results / "small", env=home) for word in ("status", "report")]
    assert [done.returncode for done in dones] == [0] * 4, dones
    assert "failed" in dones[2].stdout
    config["space"]["layers"] = 3
    dones.append(run("run", search_file(config), env=home))
    assert dones[-1].returncode == 2
    # What a start needs to go on is kept for its owner alone.
    assert (results / "small" / "search.yaml").stat().st_mode & 0o777 == 0o600
    assert leaks(results, besides=[results / "small" / "search.yaml"]) == []
    assert [each for done in dones for each in said(done)] == []
    assert stored(storage) == []


def test_what_goes_wrong_tells_nothing(
    config: Config, search_file: SearchFile, tmp_path: Path, home: dict[str, str]
) -> None:
    small(config)
    nowhere = f"postgresql+psycopg2://merging:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/db"
    config["run"]["storage"] = nowhere
    dones = [run("run", search_file(config), env=home)]
    config["run"]["storage"] = f"nodriver://merging:{quote(PASSWORD, safe='')}@127.0.0.1/db?password={PASSWORD}"
    dones.append(run("run", search_file(config), env=home))
    config["run"]["storage"] = {"url": nowhere}
    dones.append(run("check", search_file(config), env=home))
    config["run"]["storage"] = None
    config["models"]["sources"].append("someone/private-model")
    away = {**home, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://me:{ENDPOINT}@127.0.0.1:{free_port()}"}
    dones.append(run("run", search_file(config), env=away))
    assert [done.returncode for done in dones] == [2] * 4, dones
    assert "someone/private-model" in dones[-1].stderr
    assert [each for done in dones for each in said(done)] == []
    if (tmp_path / "results").exists():
        assert leaks(tmp_path / "results") == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster(scratch: Path, port: int, dashboard: int, env: dict[str, str]) -> Iterator[None]:
    """A head of two cores that asks for a token."""
    words = [Path(sys.executable).with_name("ray"), "start", "--head", "--node-ip-address", "127.0.0.1", "--port", port,
             "--temp-dir", scratch / "ray", "--dashboard-port", dashboard, "--num-cpus", "2", "--num-gpus", "0",
             "--object-store-memory", "100000000", "--block", "--disable-usage-stats"]  # fmt: skip
    with (scratch / "head").open("w") as log:
        head = subprocess.Popen(list(map(str, words)), env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while "Ray runtime started" not in (told := (scratch / "head").read_text()):
            assert head.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        yield
    finally:  # by its process ids: `ray stop` would end every Ray there is
        family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def test_a_run_on_a_cluster(
    config: Config, search_file: SearchFile, tmp_path: Path, home: dict[str, str], storage: str
) -> None:
    """Ray's own logs, and all that its state API tells of jobs, actors, tasks and environments."""
    scratch = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))  # short: Ray puts sockets there
    secured, port, dashboard = {**home, **RAY}, free_port(), free_port()
    small(config)
    config["name"] = "clustered"
    config["run"] |= {"storage": storage, "address": f"127.0.0.1:{port}", "workers": 2}
    with cluster(scratch, port, dashboard, secured):
        done = run("run", search_file(config), env=secured)
        assert done.returncode == 0, done.stderr
        told = state(f"http://127.0.0.1:{dashboard}", secured)
    assert "merge-evolve" in told
    assert [secret for secret in HIDDEN if secret in told] == []
    assert said(done) == []
    assert leaks(tmp_path / "results", besides=[tmp_path / "results" / "clustered" / "search.yaml"]) == []
    assert leaks(scratch) == []
    assert stored(storage) == []


STATE = """
import sys
from ray.util import state
for name in ("jobs", "actors", "tasks", "runtime_envs", "workers", "nodes"):
    print(name, getattr(state, f"list_{name}")(address=sys.argv[1], detail=True, raise_on_missing_output=False))
"""


def state(address: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STATE, address], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "actors [" in done.stdout
    return done.stdout
