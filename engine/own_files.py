"""Links that lead out of a model's folder are not followed: what they point to is not the model's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from engine.errors import CheckpointError


def check_own(folder: Path, paths: Iterable[Path]) -> None:
    """Raise CheckpointError for a path that is there and is no regular file of the folder's own.

    In the Hub's cache a snapshot's files are links to the repository's blobs, which are its own.
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
            regular = stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; replace it") from None
        if not regular:
            raise CheckpointError(f"{path}: is no regular file; replace it by the model's own")
