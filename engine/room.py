"""Whether a merge fits: the disk it is written to and the memory it is made in."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from engine.errors import OutputError
from engine.job import Job
from engine.operands import MOST_MASKS, pieces_of
from engine.plan import Plan

SCRATCH = 8
"""Tensors of working size that a method's reference holds besides its inputs, at most (row by row, in float64)."""
HELD = {"arcee_fusion": 4, "della": 1, "della_linear": 1}
"""Bytes that a kernel holds of every element of a tensor."""
THREAD = 4 << 20
"""Bytes of a thread's own tables."""
_MARGIN = 64 << 20
"""Bytes kept free besides the weights: tokenizer files and the file system's own needs."""


def standing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def free_disk(folder: Path) -> int:
    """Return the bytes free where `folder` stands or will stand."""
    return shutil.disk_usage(standing(folder)).free


def check_disk(folder: Path, needed: int) -> None:
    """Raise OutputError unless `needed` bytes of weights can be written below `folder`."""
    free = free_disk(folder)
    if free < needed + _MARGIN:
        raise OutputError(
            f"{folder}: {in_units(needed + _MARGIN)} are needed, {in_units(free)} are free; free some space or choose"
            " another disk"
        )


def peak_memory(plan: Plan, device: str = "cpu") -> int:
    """Return the bytes that merging holds at once, besides mapped files: the largest job's, on all threads."""
    threads = torch.get_num_threads() if device == "cpu" else 1
    return max(_peak_of(job, threads if plan.kernels and device == "cpu" else None) for job in plan.jobs)


def _peak_of(job: Job, threads: int | None) -> int:
    """Return what one job holds; `threads` None: its tensors are whole, as the reference wants them."""
    whole = sum(source.float_bytes for source in job.members if source.rows is not None)
    if threads is None or _takes_reference(job):
        return whole + job.size * job.work_dtype.itemsize * (len(job.members) + SCRATCH)
    pieces = pieces_of(job)
    piece = max((end - begin for begin, end in pieces), default=0)
    widened = sum(not source.mapped for source in job.members)
    held = HELD.get(job.method.name, 0) * job.size if job.method else 0
    return whole + held + min(threads, len(pieces)) * (THREAD + piece * (4 * widened + job.dtype.itemsize))


def _takes_reference(job: Job) -> bool:
    """Whether the kernels leave the job to the method's reference: other dtypes, and methods that go row by row."""
    if job.method is None or job.work_dtype != torch.float32:
        return True
    if job.method.combination is not None:
        return not job.method.combination.whole(job.parameters)
    return job.method.name.startswith("della") and (len(job.shape) > 2 or len(job.inputs) > MOST_MASKS)


def check_memory(peak: int, memory: int, device: str) -> None:
    """Raise OutputError if a merge that holds `peak` bytes at once has only `memory` on `device`."""
    if peak > memory:
        raise OutputError(
            f"memory of {device}: the largest tensor takes {in_units(peak)} to merge, {in_units(memory)} are free;"
            " end other programs, merge fewer models at once, or use a larger machine"
        )


def in_units(size: float) -> str:
    """Return a number of bytes in decimal units, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.4g} TB"
