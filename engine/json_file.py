"""JSON files of a model's folder, read with a limit on their size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError

LIMIT = 64 << 20
"""Bytes; the largest index of a real model has about 20 MB."""
_DEPTH = 64


def read_object(path: Path, where: str) -> dict[str, Any]:
    """Return the JSON object in a regular file of at most LIMIT bytes. Raises CheckpointError."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{where}: {path.name} is no regular file; replace it by the model's own")
        if (size := path.stat().st_size) > LIMIT:
            raise CheckpointError(
                f"{where}: {path.name} has {size} bytes, more than the {LIMIT} that are read; replace it by the"
                " model's own"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{where}: {path.name} cannot be read: {reason}; download it again") from None
    if _is_deep(content):
        raise CheckpointError(
            f"{where}: {path.name} is nested more than {_DEPTH} levels deep; replace it by the model's own"
        )
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: {path.name} is not a JSON object; download it again")
    return content


def _is_deep(content: Any) -> bool:
    """Whether it is nested too deep for what walks through it by recursion, such as copying and writing it."""
    level = [content]
    for _ in range(_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)
