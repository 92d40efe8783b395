"""Where each tensor of a merged checkpoint will stand, known before anything is merged.

A shard's header is written first and every tensor has its place in the file from the start, so tensors may be written
in any order and a shard is never held in memory. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.job import Job
from engine.shard import DTYPE_NAMES

INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True, eq=False)
class ShardLayout:
    """One file: its name, its header (length included), and per tensor (first byte in the file, bytes)."""

    file: str
    jobs: tuple[Job, ...]
    header: bytes
    offsets: Mapping[str, tuple[int, int]]
    size: int  # of the whole file, in bytes

    @property
    def tensor_bytes(self) -> int:
        return self.size - len(self.header)


def layout(jobs: Sequence[Job], shard_bytes: float) -> tuple[ShardLayout, ...]:
    """Return the shards, in the order of the jobs, each with tensors of at most `shard_bytes` bytes, or with one."""
    groups: list[list[Job]] = [[]]
    filled = 0
    for job in jobs:
        if groups[-1] and filled + nbytes(job) > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(job)
        filled += nbytes(job)
    if len(groups) == 1:
        return (_shard("model.safetensors", groups[0]),)
    of = len(groups)
    return tuple(_shard(f"model-{i + 1:05d}-of-{of:05d}.safetensors", group) for i, group in enumerate(groups))


def nbytes(job: Job) -> int:
    """Return the bytes of a job's result."""
    return math.prod(job.shape) * job.dtype.itemsize


def index(shards: Sequence[ShardLayout]) -> str:
    """Return the text of the index that tells in which file each tensor stands."""
    places = {job.name: shard.file for shard in shards for job in shard.jobs}
    total = sum(shard.tensor_bytes for shard in shards)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return json.dumps(content, indent=2) + "\n"


def _shard(file: str, jobs: Sequence[Job]) -> ShardLayout:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    spans: list[tuple[int, int]] = []
    end = 0
    for job in jobs:
        begin, end = end, end + nbytes(job)
        spans.append((begin, end - begin))
        entries[job.name] = {"dtype": DTYPE_NAMES[job.dtype], "shape": list(job.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligned tensors can be mapped
    header = len(text).to_bytes(8, "little") + text
    offsets = {job.name: (len(header) + begin, size) for job, (begin, size) in zip(jobs, spans, strict=True)}
    return ShardLayout(file, tuple(jobs), header, offsets, len(header) + end)
