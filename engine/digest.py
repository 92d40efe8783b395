"""What a file holds, as one text."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 1 << 22  # bytes read at once


def digest_of(path: Path) -> str:
    """The sha256 of a file's contents, in hexadecimal. Raises OSError."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hashed.update(block)
    return hashed.hexdigest()
