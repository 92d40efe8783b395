"""Temporary folders that outlive a killed process no longer than until the next one asks for a folder.

A process holds a lock on a file in its folder. The kernel frees it however the process ends, so a folder whose
lock is free belongs to nobody: this matters in shared memory, where a forgotten model keeps its bytes taken.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "evolve-"
LOCK = ".held"
YOUNG = 60.0  # seconds in which a folder may be without its lock: it was made just now


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in `parent` (the system's temporary folder), removed at the end."""
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with FileLock(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the folders of processes that were killed."""
    for lock in parent.glob(f"{PREFIX}*/{LOCK}"):
        try:
            if time.time() - lock.stat().st_mtime < YOUNG:
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)
        except (Timeout, OSError):
            continue  # at work, gone already, or another user's
