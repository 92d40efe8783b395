"""Merging into memory. The candidate that is scored and the checkpoint that is written come from the same executor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from engine.execute import Executor
from engine.job import Job
from engine.kept import Kept
from engine.plan import Plan

MERGE_VERSION = (
    1  # of what a recipe's numbers are: another one makes strangers of unfinished merges and recorded scores
)


def merge(plan: Plan, device: str = "cpu") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) for every job, in the plan's output dtypes, on `device`.

    The tensors are the caller's: none is a view of an input. Raises RecipeError, CheckpointError, NonFiniteError.
    """
    executor = Executor(device=device, kernels=plan.kernels)
    for job in plan.jobs:
        merged = torch.empty(job.shape, dtype=job.dtype, device=device)
        executor.run([job], _Targets({job.name: merged}))
        yield job.name, merged


def merge_into(plan: Plan, targets: Mapping[str, torch.Tensor], *, device: str, kept: Kept | None = None) -> None:
    """Set `targets`, by name, to the merged tensors; each has its job's shape, and is contiguous, of any dtype.

    `kept` serves all candidates over the same models. Raises as `merge` does; the targets then hold anything.
    """
    Executor(device=device, kernels=plan.kernels, kept=kept).run(plan.jobs, _Targets(targets))


class _Targets:
    """A sink over tensors that are there: words go straight into those of the job's dtype on the CPU."""

    def __init__(self, targets: Mapping[str, torch.Tensor]) -> None:
        self._targets = targets

    def room(self, job: Job, begin: int, end: int) -> torch.Tensor:
        target = self._targets[job.name]
        if target.dtype == job.dtype and target.device.type == "cpu":
            return target.detach().view(-1)[begin:end]
        return torch.empty(end - begin, dtype=job.dtype)

    def put(self, job: Job, begin: int, merged: torch.Tensor) -> None:
        part = self._targets[job.name].detach().view(-1)[begin : begin + merged.numel()]
        if part.data_ptr() != merged.data_ptr():
            part.copy_(merged)
