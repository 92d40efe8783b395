"""Links that lead out of a model's folder are not followed: what they point to is not the model's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from engine.errors import CheckpointError


def check_own(folder: Path, paths: Iterable[Path], limit: int | None = None) -> None:
    """Raise CheckpointError for a path that is there and is no regular file of the folder's own, or too large.

    `limit` is in bytes. In the Hub's cache a snapshot's files are links to the repository's blobs, which are its own.
    """
    root = folder.resolve()
    roots = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
    for path in paths:
        if not os.path.lexists(path):
            continue
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not any(target.is_relative_to(each) for each in roots):
            raise CheckpointError(
                f"{path}: is a link to {target}, out of the model's folder; put the file itself there"
            )
        try:
            found = path.stat()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; replace it") from None
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path}: is no regular file; replace it by the model's own")
        if limit is not None and found.st_size > limit:
            raise CheckpointError(
                f"{path}: has {found.st_size} bytes, more than {limit}; replace it by the model's own"
            )
