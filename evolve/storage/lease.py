"""One driver per run: a lease with a heartbeat beside the ledger, a row of the database or a file.

It holds a counter that its owner raises every few seconds. Whoever finds a lease watches the counter instead
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
from pathlib import Path
from types import TracebackType

import psutil
from sqlalchemy.exc import SQLAlchemyError

from evolve.errors import RunError
from evolve.storage.lease_slots import FileSlot, Holder, RowSlot, Slot
from evolve.storage.storage import storage_errors, with_driver
from evolve.storage.urls import journal_path

BEAT = 5.0  # seconds between two heartbeats
PATIENCE = 30.0  # seconds without a heartbeat after which a driver on another machine counts as dead
FOLDER_PATIENCE = 90.0  # the same where the lease is a file: a network folder may show what it held a minute ago
AWAY = (SQLAlchemyError, OSError, RunError)  # what a storage raises that does not answer


def slot_of(url: str, run: str) -> Slot:
    path = journal_path(url)
    return FileSlot(path, run) if path else RowSlot(with_driver(url), run)


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
        self._slot = slot_of(url, run)
        self._patience = FOLDER_PATIENCE if journal_path(url) else PATIENCE
        self._owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost: Holder | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        with storage_errors(self._url):
            self._acquire()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        # Where the storage is away, the lease looks like a dead driver's: the next start finds this process gone.
        with contextlib.suppress(*AWAY):
            self._slot.release(self._owner)
        self._slot.close()

    def check(self) -> None:
        """Raises RunError if another driver has taken the run over (this one was silent for too long)."""
        if self._lost is not None:
            raise RunError(f"{self._run}: {self._lost} took this run over; nothing more is written from here")

    def holder(self) -> Holder | None:
        """Who drives the run now, by the lease; None if it was released or never held."""
        return self._slot.holder()

    def living(self) -> Holder | None:
        """The holder, unless it ran on this machine and is gone. Needs no lease, and only reads."""
        with storage_errors(self._url):
            holder = self.holder()
        self._slot.close()
        gone = holder is not None and holder.host == machine() and self._gone(holder)
        return None if gone else holder

    def _acquire(self) -> None:
        mine = Holder(self._owner, machine(), os.getpid(), psutil.Process().create_time(), 0)
        taken = False
        while not taken:  # a lease that changed since it was looked at is looked at again
            before = self.holder()
            if before is not None and not self._gone(before):
                raise RunError(f"{self._run}: {before} is already driving this run; wait for it, or stop it first")
            taken = self._slot.take(before, mine)

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
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            time.sleep(1)
            now = self.holder()
            if now != holder:
                return now is None or now.owner != holder.owner
        return True

    def _keep(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                if not self._slot.beat(self._owner):
                    self._lost = self.holder() or Holder("", "another machine", 0, 0.0, 0)
                    return
            except AWAY:
                continue  # the storage is away: the next beat tries again, others wait for their patience's end
