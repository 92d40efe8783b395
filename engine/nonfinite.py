"""Who brought NaN or infinity into a merge: told by model and tensor."""

from __future__ import annotations

import torch

from engine.checkpoint import Checkpoint
from engine.job import Job

_ELEMENTS = 1 << 24
"""Elements that are looked at at once."""


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite; one pass at the speed of memory, as min and max keep NaN."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    wide = tensor if tensor.dtype.itemsize > 1 else tensor.to(torch.float32)  # float8 has no minimum
    return all(bool(torch.isfinite(value)) for value in torch.aminmax(wide))


def nonfinite(checkpoint: Checkpoint) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, or None. Reads all weights."""
    return next((name for name in checkpoint.tensors if not _is_finite_in(checkpoint, name)), None)


def nonfinite_source(job: Job) -> tuple[str, str] | None:
    """Return the (reference, tensor) of the first input of a job that holds NaN or infinity, the base's last.

    Where rows come from several models, each of them is asked. None where all inputs are finite. Methods that drop
    elements may drop these too, so a finite result says nothing about its sources.
    """
    for source in job.members:
        parts = [(source.checkpoint, source.name), *((rows.checkpoint, rows.name) for rows in source.rows or ())]
        for checkpoint, name in parts:
            if not _is_finite_in(checkpoint, name):
                return checkpoint.reference, name
    return None


def _is_finite_in(checkpoint: Checkpoint, name: str) -> bool:
    info = checkpoint.tensors[name]
    if not info.dtype.is_floating_point:
        return True
    if not info.shape:
        return is_finite(checkpoint.read(name))
    rows = max(1, _ELEMENTS * info.shape[0] * info.dtype.itemsize // max(info.nbytes, 1))
    return all(is_finite(checkpoint.read(name, slice(i, i + rows))) for i in range(0, info.shape[0], rows))
