"""Temporary folders that outlive a killed process no longer than until the next one asks for a folder.

A process holds a lock on a file in its folder. The kernel frees it however the process ends, so a folder whose
lock is free belongs to nobody: this matters in shared memory, where a forgotten model keeps its bytes taken.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "evolve-"
LOCK = ".held"


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in `parent` (the system's temporary folder), removed at the end."""
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent)
    # Locked under another name first: whoever sweeps never sees a living folder without its lock.
    unlocked = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    with FileLock(unlocked / LOCK):
        folder = unlocked.rename(parent / unlocked.name[1:])
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        lock = folder / LOCK
        try:
            if is_own(folder, stat.S_IFDIR) and is_own(lock, stat.S_IFREG):
                with FileLock(lock, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue  # at work, or gone already


def is_own(path: Path, kind: int) -> bool:
    """Whether `path` is of this kind, no symbolic link, and this user's: anybody may write in a temporary folder.

    Raises OSError where nothing is there.
    """
    found = path.lstat()
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == (os.geteuid() if hasattr(os, "geteuid") else 0)
