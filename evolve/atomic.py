"""Files that are whole or absent: written beside their place and moved into it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from evolve.errors import RunError

UNFINISHED = ".unfinished"


@contextmanager
def replacing(path: Path, *, mode: int = 0o644, synced: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `path` in one step when the block ends (`synced`: on disk). Raises RunError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                if synced:
                    os.fsync(file.fileno())
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free disk space or make the folder writable, then run the same command again"
        ) from error


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace `path` by `text` in one step, on disk when it returns. Raises RunError."""
    with replacing(path, mode=mode) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what writers in `folder` and below left half-written when they were killed; none may be at work."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
