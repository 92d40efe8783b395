"""The folder in which a merged checkpoint grows, and what of it a second start may keep.

`.NAME.partial` stands beside the target NAME. Its shards get their names when they are whole and on the disk; a note
in it holds a digest of all that their bytes follow from. A start with the same digest keeps the whole shards, any
other one begins anew. A lock keeps a second process out for as long as the first lives, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import torch

from engine.checkpoint import Checkpoint
from engine.errors import OutputError
from engine.job import Input
from engine.merge import MERGE_VERSION
from engine.operands import PIECE
from engine.plan import Plan
from engine.shard_layout import ShardLayout

NOTE = ".unfinished.json"


def partial_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def drop_link(folder: Path) -> None:
    """Remove a link that stands where a folder of ours will: what it points to is not ours to clear."""
    if folder.is_symlink():
        folder.unlink()


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the right to write to `folder`. Raises OutputError while another process does."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{folder}: another process is writing to it; wait for it, stop it, or name another folder"
        ) from None
    except NotImplementedError:  # a file system without locks, as some clusters have: nothing to hold
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held: whoever has opened it by then sees that it names nothing
            Path(lock.lock_file).unlink()
        lock.release()


def identity(plan: Plan, shards: Sequence[ShardLayout], device: str) -> str:
    """Return a digest of all that the shards' bytes follow from. Weights count by path, size and time of change."""
    facts = [
        MERGE_VERSION,
        _own_version(),
        torch.__version__,
        metadata.version("numba"),
        PIECE,  # sums are taken piece by piece
        torch.device(device).type,
        plan.recipe.digest,
        [hashlib.sha256(shard.header).hexdigest() for shard in shards],
        {str(folder): _files(folder) for checkpoint in _checkpoints(plan) for folder in _folders(checkpoint)},
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def finished(partial: Path, identity: str, shards: Sequence[ShardLayout]) -> frozenset[str]:
    """Return the names of the shards that an earlier start of the same merge has finished."""
    if partial.is_symlink():
        return frozenset()
    try:
        note = json.loads((partial / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    if note != {"identity": identity}:
        return frozenset()
    return frozenset(shard.file for shard in shards if _size(partial / shard.file) == shard.size)


def begin(partial: Path, identity: str, kept: frozenset[str]) -> None:
    """Make the folder, or clear it but for the shards that are kept, and note whose it is."""
    if not kept:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    clear(partial, kept | {NOTE})
    (partial / NOTE).write_text(json.dumps({"identity": identity}), encoding="utf-8")


def clear(partial: Path, kept: frozenset[str]) -> None:
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_symlink() or path.name not in kept:
            path.unlink()


def leave_off(partial: Path, shards: Sequence[ShardLayout]) -> int:
    """Keep the whole shards for the next start and nothing else; the folder goes if there are none. Returns them."""
    whole = frozenset(shard.file for shard in shards if (partial / shard.file).is_file())
    with suppress(OSError):
        clear(partial, whole | {NOTE} if whole else frozenset())
    if not whole:
        shutil.rmtree(partial, ignore_errors=True)
    return len(whole)


def _own_version() -> str:
    try:
        return metadata.version("merge-evolve")
    except metadata.PackageNotFoundError:  # run from a clone
        return ""


def _checkpoints(plan: Plan) -> list[Checkpoint]:
    inputs: list[Input] = []
    for job in plan.jobs:
        inputs += job.members
    opened = {id(each.checkpoint): each.checkpoint for each in inputs}
    opened |= {id(rows.checkpoint): rows.checkpoint for each in inputs for rows in each.rows or ()}
    return list(opened.values())


def _folders(checkpoint: Checkpoint) -> list[Path]:
    adapter = checkpoint.adapter
    return [folder.resolve() for folder in (checkpoint.folder, *([adapter.folder] if adapter else []))]


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Configuration and tokenizer count too: the tensors that are read, and their rows, follow from them."""
    status = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    return [(name, each.st_size, each.st_mtime_ns) for name, each in status.items()]


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None
