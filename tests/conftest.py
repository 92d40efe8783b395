"""Fixtures of more than one room."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A server of its own, where the binaries and a driver are installed."""
    pytest.importorskip("psycopg2")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    program = shutil.which("initdb") or (str(found[-1]) if found else None)
    if program is None:
        pytest.skip("no PostgreSQL server is installed")
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))  # pytest closes its own folders to others, "nobody" too
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = {"user": "nobody", "env": {**os.environ, "HOME": "/tmp"}}
        folder.chmod(0o755)
        shutil.chown(folder, "nobody")
    data, port = folder / "data", free_port()
    (folder / "password").write_text("secret")
    (folder / "password").chmod(0o644)
    access = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
    subprocess.run([program, "-D", data, "-U", "me", *access], check=True, capture_output=True, cwd="/", **user)
    control = str(Path(program).with_name("pg_ctl"))
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    start = [control, "-D", data, "-w", "-l", folder / "log", "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/", **user)
    yield f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/postgres"
    stop = [control, "-D", data, "-m", "immediate", "stop"]
    subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd="/", **user)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mysql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MariaDB server of its own, where it and a driver are installed."""
    pymysql = pytest.importorskip("pymysql")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    server, setup = (shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db"))
    if server is None or setup is None:
        pytest.skip("no MariaDB server is installed")
    folder = tmp_path_factory.mktemp("mysql")
    owner = ["--user=root"] if os.geteuid() == 0 else []
    data, port = folder / "data", free_port()
    made = [setup, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *owner]
    subprocess.run(made, check=True, capture_output=True)
    options = [f"--datadir={data}", f"--socket={folder}/socket", f"--port={port}", "--bind-address=127.0.0.1"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([server, "--no-defaults", *options, *owner], stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = pymysql.connect(host="127.0.0.1", port=port, user="root")
            break
        except pymysql.err.OperationalError:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE runs")
        cursor.execute("CREATE USER me@'%' IDENTIFIED BY 'secret'")
        cursor.execute("GRANT ALL ON runs.* TO me@'%'")
    yield f"mysql+pymysql://me:secret@127.0.0.1:{port}/runs"
    process.kill()
    process.wait()


@pytest.fixture
def unsynchronised() -> Iterator[None]:
    """No waiting for the disk: for tests that end processes in thought only."""

    def set_pragma(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", set_pragma)
    yield
    event.remove(Engine, "connect", set_pragma)
