"""What runs on the cluster when results are fetched: looking at a folder and reading pieces of its files.

The functions travel by value, so they need nothing but the standard library, and no name of this module.
"""

from __future__ import annotations

from typing import Any


def listing(folder: str) -> list[tuple[str, int]] | None:
    """The regular files below a folder, by their paths from it with `/`, and their bytes; None: there is no folder.

    Links are not followed.
    """
    import os

    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        return None
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path) and not os.path.islink(path):
                found.append((os.path.relpath(path, folder).replace(os.sep, "/"), os.path.getsize(path)))
    return sorted(found)


def beginning(folder: str, name: str, size: int) -> bytes | None:
    """The first `size` bytes of a file, none of what is not there or a link; None: there is no folder."""
    import os

    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        return None
    path = os.path.join(folder, name)
    if not os.path.isfile(path) or os.path.islink(path):
        return b""
    with open(path, "rb") as file:
        return file.read(size)


def digest(folder: str, name: str) -> str:
    """The sha256 of a file's contents."""
    import hashlib
    import os

    hashed: Any = hashlib.sha256()
    with open(os.path.join(os.path.expanduser(folder), name), "rb") as file:
        while block := file.read(1 << 22):
            hashed.update(block)
    return str(hashed.hexdigest())


def piece(folder: str, name: str, begin: int, size: int) -> bytes:
    """`size` bytes of a file, fewer at its end."""
    import os

    with open(os.path.join(os.path.expanduser(folder), name), "rb") as file:
        file.seek(begin)
        return file.read(size)
