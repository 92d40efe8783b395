"""One driver per run: a leased row with a heartbeat beside the ledger.

The row holds a counter that its owner raises every few seconds. Whoever finds a row watches the counter instead
of comparing clocks: one that moves belongs to a living driver. On the owner's own machine its process is looked
up, so a driver that was killed is followed at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from evolve.errors import RunError
from evolve.ledger import SQLITE_WAIT, storage_errors

BEAT = 5.0  # seconds between two heartbeats
PATIENCE = 30.0  # seconds without a heartbeat after which a driver on another machine counts as dead

LEASES = Table(
    "evolve_leases",
    MetaData(),
    Column("run", String(255), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", Float(53), nullable=False),
    Column("beat", BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Holder:
    owner: str
    host: str
    pid: int
    started: float
    beat: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split()[0]}"


def machine() -> str:
    """Where process ids mean what they mean here: host name, and on Linux this boot and this container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


class Lease:
    """Held while the `with` block runs. Entering raises RunError where another driver is at work."""

    def __init__(self, url: str, run: str) -> None:
        self._run = run
        self._url = url
        arguments: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("sqlite"):
            arguments["connect_args"] = {"timeout": SQLITE_WAIT}
        self._engine = create_engine(url, **arguments)
        self._owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost: Holder | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        with storage_errors(self._url):
            LEASES.metadata.create_all(self._engine, checkfirst=True)
            self._acquire()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        # Where the database is away, the row looks like a dead driver's: the next start finds this process gone.
        with contextlib.suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(update(LEASES).where(self._mine()).values(owner=""))
        self._engine.dispose()

    def check(self) -> None:
        """Raises RunError if another driver has taken the run over (this one was silent for too long)."""
        if self._lost is not None:
            raise RunError(f"{self._run}: {self._lost} took this run over; nothing more is written from here")

    def holder(self) -> Holder | None:
        """Who drives the run now, by the row; None if it was released or never held."""
        with self._engine.connect() as connection:
            row = connection.execute(select(LEASES).where(LEASES.c.run == self._run)).one_or_none()
        if row is None or not row.owner:
            return None
        return Holder(row.owner, row.host, row.pid, row.started, row.beat)

    def living(self) -> Holder | None:
        """The holder, unless it ran on this machine and is gone. Needs no lease, and only reads."""
        with storage_errors(self._url):
            holder = self.holder() if inspect(self._engine).has_table(LEASES.name) else None
        self._engine.dispose()
        gone = holder is not None and holder.host == machine() and self._gone(holder)
        return None if gone else holder

    def _acquire(self) -> None:
        mine = {
            "owner": self._owner,
            "host": machine(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "beat": 0,
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(LEASES).values(run=self._run, **mine))
            return
        except IntegrityError:
            pass
        taken = False
        while not taken:  # a row that changed since it was looked at is looked at again
            before = self.holder()
            if before is not None and not self._gone(before):
                raise RunError(f"{self._run}: {before} is already driving this run; wait for it, or stop it first")
            free = LEASES.c.owner == ""
            if before is not None:
                free = (LEASES.c.owner == before.owner) & (LEASES.c.beat == before.beat)
            with self._engine.begin() as connection:
                result = connection.execute(update(LEASES).where(LEASES.c.run == self._run, free).values(**mine))
            taken = result.rowcount == 1

    def _gone(self, holder: Holder) -> bool:
        """Whether `holder` drives the run no longer: it ended or, on another machine, fell silent or let go."""
        if holder.host == machine():
            try:
                process = psutil.Process(holder.pid)
                # A killed driver stays a zombie until its parent asks for its end: in a container, perhaps never.
                ended = process.status() == psutil.STATUS_ZOMBIE
                return ended or abs(process.create_time() - holder.started) > 1
            except psutil.NoSuchProcess:
                return True
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(1)
            now = self.holder()
            if now != holder:
                return now is None or now.owner != holder.owner
        return True

    def _mine(self) -> Any:
        return (LEASES.c.run == self._run) & (LEASES.c.owner == self._owner)

    def _keep(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                with self._engine.begin() as connection:
                    kept = connection.execute(update(LEASES).where(self._mine()).values(beat=LEASES.c.beat + 1))
                if kept.rowcount != 1:
                    self._lost = self.holder() or Holder("", "another machine", 0, 0.0, 0)
                    return
            except SQLAlchemyError:
                continue  # the database is away: the next beat tries again, others wait for PATIENCE
