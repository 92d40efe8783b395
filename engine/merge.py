"""Executing a plan. The candidate that is scored and the checkpoint that is written both come from here."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from engine.errors import CheckpointError, RecipeError
from engine.job import Job
from engine.plan import Plan


def merge(plan: Plan, device: str = "cpu") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) for every job, in the plan's output dtypes, on `device`.

    The tensors are the caller's: none is a view of an input. Raises RecipeError, CheckpointError.
    """
    for job in plan.jobs:
        yield job.name, run(job, device)


@torch.no_grad()
def run(job: Job, device: str = "cpu") -> torch.Tensor:
    """Return one output tensor. A function of the job alone, whatever ran before it."""
    inputs = [member.read(job.work_dtype, device) for member in job.inputs]
    base = job.base.read(job.work_dtype, device) if job.base else None
    if job.method is None:
        return _copy(job, [*([base] if base is not None else []), *inputs])
    try:
        merged = job.method.reference(inputs, base, job.parameters, job.key)
    except RecipeError as error:
        raise RecipeError(f"{job.name}: {error}") from None
    merged = merged.to(job.dtype)
    if any(merged.data_ptr() == tensor.data_ptr() for tensor in inputs):
        merged = merged.clone()  # may be a view of a read-only file
    return merged


def _copy(job: Job, tensors: list[torch.Tensor]) -> torch.Tensor:
    if not all(torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
        raise CheckpointError(f"{job.name}: holds {job.dtype}, which cannot be merged, and differs between the models")
    return tensors[0].clone()
