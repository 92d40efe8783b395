"""One driver per run, whatever ends the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, update

from evolve.errors import RunError
from evolve.storage import lease as module
from evolve.storage.lease import Lease, machine
from evolve.storage.lease_slots import LEASES

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from evolve.storage.lease import Lease
with Lease(sys.argv[1], "run"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 1.5)


@pytest.fixture
def driver(url: str) -> Iterator[subprocess.Popen[str]]:
    """A second process that holds the lease until a line comes in."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def change(url: str, **values: Any) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(update(LEASES).values(**values))
    engine.dispose()


def row(url: str) -> Any:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(select(LEASES)).one()
    engine.dispose()
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_a_second_driver_is_refused_and_a_killed_one_followed_at_once(url: str, driver: subprocess.Popen[str]) -> None:
    with pytest.raises(RunError, match=f"process {driver.pid} on .* is already driving this run"), Lease(url, "run"):
        pass
    holder = Lease(url, "run").living()
    assert holder is not None
    assert holder.pid == driver.pid
    with Lease(url, "another run in the same database"):
        pass
    driver.send_signal(signal.SIGKILL)
    # It is a zombie until its parent asks for its end, which in a container may be never.
    wait_for(lambda: Lease(url, "run").living() is None, 5)
    start = time.monotonic()
    with Lease(url, "run") as lease:
        lease.check()
    assert time.monotonic() - start < 5


def test_a_driver_that_ends_leaves_the_lease_free(url: str, driver: subprocess.Popen[str]) -> None:
    driver.communicate("\n")
    assert row(url).owner == ""
    assert Lease(url, "run").living() is None
    for _ in range(2):
        with Lease(url, "run"):
            pass


def test_an_error_leaves_the_lease_free(url: str) -> None:
    with pytest.raises(KeyboardInterrupt), Lease(url, "run"):
        raise KeyboardInterrupt
    with Lease(url, "run") as lease:
        holder = lease.holder()
        assert holder is not None
        assert (holder.pid, holder.host) == (os.getpid(), machine())


def test_a_driver_in_this_process_refuses_another_thread(url: str) -> None:
    with Lease(url, "run"), pytest.raises(RunError, match="already driving"), Lease(url, "run"):
        pass


def test_a_pid_that_was_given_anew_is_no_driver(url: str) -> None:
    with Lease(url, "run"):
        pass
    change(url, owner="before", host=machine(), pid=os.getpid(), started=1e9)
    with Lease(url, "run"):
        pass


@pytest.mark.usefixtures("quick")
def test_a_moving_counter_on_another_machine_refuses(url: str) -> None:
    with Lease(url, "run"):
        change(url, host="elsewhere")
        with pytest.raises(RunError, match="on elsewhere is already driving"), Lease(url, "run"):
            pass


@pytest.mark.usefixtures("quick")
def test_a_silent_driver_on_another_machine_is_followed(url: str) -> None:
    with Lease(url, "run"):
        pass
    change(url, owner="before", host="elsewhere", beat=7)
    assert Lease(url, "run").living() is not None  # nobody can know without waiting
    start = time.monotonic()
    with Lease(url, "run") as lease:
        assert time.monotonic() - start >= 1.5
        lease.check()
        assert row(url).host == machine()


def while_looked_at(monkeypatch: pytest.MonkeyPatch, url: str, look: int, **values: Any) -> None:
    """The row changes so before it is looked at for the `look`-th time."""
    holder, looks = Lease.holder, iter(range(1, 100))

    def changing(lease: Lease) -> module.Holder | None:
        if next(looks) == look:
            change(url, **values)
        return holder(lease)

    monkeypatch.setattr(Lease, "holder", changing)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("after", [{"owner": ""}, {"owner": "next", "host": machine(), "pid": os.getpid()}])
def test_a_lease_that_comes_free_while_it_is_watched_is_taken(
    url: str, monkeypatch: pytest.MonkeyPatch, after: dict[str, Any]
) -> None:
    with Lease(url, "run"):
        pass
    change(url, owner="before", host="elsewhere", started=1e9)  # a process of this id began at another time
    while_looked_at(monkeypatch, url, 2, **after)
    with Lease(url, "run"):
        assert (row(url).host, row(url).pid) == (machine(), os.getpid())


@pytest.mark.usefixtures("quick")
def test_a_lease_that_another_one_takes_while_it_is_watched_refuses(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(url, "run"):
        started = row(url).started
    change(url, owner="before", host="elsewhere", started=1e9)
    while_looked_at(monkeypatch, url, 2, owner="next", host=machine(), pid=os.getpid(), started=started)
    with pytest.raises(RunError, match=f"process {os.getpid()} on .* is already driving"), Lease(url, "run"):
        pass


def test_looking_who_drives_writes_nothing(url: str, tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    assert Lease(url, "run").living() is None
    assert (tmp_path / "study.db").read_bytes() == b""


@pytest.mark.usefixtures("quick")
def test_a_lost_lease_says_so_and_stays_lost(url: str) -> None:
    with Lease(url, "run") as lease:
        lease.check()
        change(url, owner="another", host="elsewhere", pid=12, beat=0)

        def lost() -> bool:
            try:
                lease.check()
            except RunError as error:
                return "process 12 on elsewhere took this run over" in str(error)
            return False

        wait_for(lost)
    assert row(url).owner == "another"  # leaving does not free what another one holds


@pytest.mark.usefixtures("quick")
def test_the_counter_moves_while_the_lease_is_held(url: str) -> None:
    with Lease(url, "run"):
        wait_for(lambda: row(url).beat >= 3)


@pytest.mark.usefixtures("quick")
def test_a_database_that_is_away_for_a_while_loses_nothing(url: str, tmp_path: Path) -> None:
    with Lease(url, "run") as lease:
        wait_for(lambda: row(url).beat >= 1)
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(update(LEASES).values(started=LEASES.c.started))  # a writer holds the file's lock
            time.sleep(0.5)
        engine.dispose()
        before = row(url).beat
        wait_for(lambda: row(url).beat > before)
        lease.check()


def test_a_database_that_cannot_be_reached_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.storage"), Lease(f"sqlite:///{tmp_path}/none/study.db", "run"):
        pass
