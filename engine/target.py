"""The folder that a merge is written to: absent, empty, or a checkpoint that we wrote and may replace."""

from __future__ import annotations

import os
import re
from pathlib import Path

from engine.companions import NAMES, code
from engine.errors import OutputError
from engine.room import standing
from engine.shard_layout import INDEX_FILE
from engine.unfinished import NOTE

RECIPE_FILE = "merge_recipe.yaml"
_WEIGHTS = re.compile(r"model(-\d{5,}-of-\d{5,})?\.safetensors")
_OURS = frozenset({RECIPE_FILE, "config.json", "README.md", INDEX_FILE, NOTE, *NAMES})
"""What we write beside weights and code; the note stays where a process is killed at the very end."""


def check_target(folder: Path) -> Path:
    """Return the folder's true path, links and `..` resolved. It is absent, empty, or a checkpoint that we wrote.

    Raises OutputError for any other one, naming the first thing in it that is not ours, and where we may not write.
    """
    true = Path(os.path.realpath(folder))
    try:
        if true.exists() and not true.is_dir():
            raise OutputError(f"{folder}: is a file; name a folder")
        if true.is_dir() and (reason := _not_ours(true)):
            raise OutputError(f"{folder}: is not empty and {reason}; name a new folder or remove this one")
        parent = standing(true.parent)
        if not parent.is_dir():
            raise OutputError(f"{folder}: cannot be made, as {parent} is a file; choose another folder")
    except OSError as error:  # a name that is too long, a folder that cannot be listed
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}; choose another folder") from None
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be made, as {parent} is read-only; choose another folder")
    return true


def _not_ours(folder: Path) -> str | None:
    """Why a folder that is there may not be replaced; None where it is empty or ours."""
    found = sorted(folder.iterdir())
    if not found:
        return None
    names = [path.name for path in found]
    for needed in (RECIPE_FILE, "config.json"):
        if needed not in names:
            return f"holds no {needed}"
    if not any(_WEIGHTS.fullmatch(name) for name in names):
        return "holds no weights"
    copied = {path.name for path in code(folder)}
    for path in found:
        if path.is_symlink() or not path.is_file():
            return f"holds {path.name}, which is no file of a merge"
        if path.name not in _OURS and path.name not in copied and not _WEIGHTS.fullmatch(path.name):
            return f"holds {path.name}, which no merge writes"
    return None
