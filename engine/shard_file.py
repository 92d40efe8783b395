"""Merging the tensors of one shard into one file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from engine.errors import CheckpointError
from engine.merge import run
from engine.shard_layout import ShardLayout


def write_shard(shard: ShardLayout, path: Path, device: str, advance: Callable[[int], None]) -> None:
    """Merge a shard's tensors into the file `path`, which is on the disk when this returns.

    `advance` is called with the bytes of each tensor that was written. Raises CheckpointError, RecipeError and OSError;
    the file is then left as it is.
    """
    with path.open("wb") as file:
        file.truncate(shard.size)  # offsets are fixed: the file has its whole length before its content
        file.write(shard.header)
        for job in shard.jobs:
            begin, size = shard.offsets[job.name]
            merged = run(job, device)
            # A sum is finite only if every term is, and costs one pass; float64 has room for any sum of finite terms.
            if merged.is_floating_point() and not torch.isfinite(merged.sum(dtype=torch.float64)):
                raise CheckpointError(
                    f"{job.name}: has NaN or infinite weights after the merge; see that its models have none and that"
                    " weights are not huge"
                )
            if size:
                file.seek(begin)
                file.write(merged.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            advance(size)
        file.flush()
        os.fsync(file.fileno())
