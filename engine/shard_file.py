"""Merging the tensors of one shard into one file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from engine.execute import Executor
from engine.job import Job
from engine.shard_layout import ShardLayout


def write_shard(shard: ShardLayout, path: Path, executor: Executor, advance: Callable[[int], None]) -> None:
    """Merge a shard's tensors into the file `path`, which is on the disk when this returns.

    `advance` is called with the bytes of each piece that was written, by any thread. Raises CheckpointError,
    RecipeError and OSError; the file is then left as it is.
    """
    with path.open("wb") as file:
        file.truncate(shard.size)  # offsets are fixed: the file has its whole length before its content
        file.write(shard.header)
        file.flush()
        executor.run(shard.jobs, _File(file.fileno(), shard, advance))
        os.fsync(file.fileno())


class _File:
    """A sink at fixed offsets of an open file."""

    def __init__(self, descriptor: int, shard: ShardLayout, advance: Callable[[int], None]) -> None:
        self._descriptor, self._shard, self._advance = descriptor, shard, advance
        self._thread = threading.local()

    def room(self, job: Job, begin: int, end: int) -> torch.Tensor:
        """Return the thread's own memory, again and again: fresh memory costs more than writing it."""
        size = (end - begin) * job.dtype.itemsize
        if getattr(self._thread, "memory", torch.empty(0)).numel() < size:
            self._thread.memory = torch.empty(size, dtype=torch.uint8)
        memory: torch.Tensor = self._thread.memory
        return memory[:size].view(job.dtype)

    def put(self, job: Job, begin: int, merged: torch.Tensor) -> None:
        if not merged.numel():
            return
        content = merged.cpu().contiguous().view(torch.uint8).numpy().data
        at = self._shard.offsets[job.name][0] + begin * job.dtype.itemsize
        while content:
            written = os.pwrite(self._descriptor, content, at)
            content, at = content[written:], at + written
            self._advance(written)
