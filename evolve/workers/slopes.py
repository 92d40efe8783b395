"""The slopes of a recipe's weights: every gradient of a weight matrix is reduced to them as it appears, and freed.

Backward passes give the gradients of one tensor after the other. A hook takes each when it is whole, turns it into a
few numbers (`engine.derivative`) and lets it go, so that no more than one of them is held beside the model, and one of
a tied embedding, which is whole at the end only. Gradients have the module's dtype (bfloat16 where it is scored in
that); the numbers are summed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from engine.derivative import Derivative, derivative
from engine.job import Job as MergeJob
from engine.kept import Kept
from engine.plan import Plan
from evolve.trial import Job, Slopes
from evolve.workers.resident import Resident
from tasks.slope import Slope

NOT_RESIDENT = (
    "the merged model cannot stand in the base's place in memory (other layers, another vocabulary, or tensors that "
    "transformers renames), so its weights have no slopes; search without them"
)


def no_slopes(made: Plan | None) -> str | None:
    """Why no weight of the recipe has a slope, if so."""
    names = {job.method.name for job in made.jobs if job.method and not job.method.differentiable} if made else set()
    return f"{', '.join(sorted(names))}: has no derivative by its parameters; search without slopes" if names else None


def slopes_of(made: Plan, module: torch.nn.Module, resident: Resident, slope: Slope, job: Job) -> Slopes:
    """The slopes at a recipe whose weights are in the resident module.

    Raises what `Slope.climb` and `derivative` raise; the module is then as it was.
    """
    gathered = Gathered(made, resident)
    with gathered.hooked(module):
        value, documents = slope.climb(job.documents, job.only, gathered.one_pass)
    return Slopes(value, gathered.total, documents)


class Gathered:
    """Derivatives by tensor, added up over backward passes."""

    def __init__(self, made: Plan, resident: Resident) -> None:
        self.total: dict[str, Derivative] = {}
        self._kept: Kept = resident.kept
        self._pending: dict[str, Derivative] = {}
        # Of names that share a tensor the last one merged is what stands there.
        by_tensor = {id(resident.parameters[each.name]): each for each in made.jobs if each.method is not None}
        self._jobs: list[tuple[torch.Tensor, MergeJob]] = [
            (resident.parameters[each.name], each)
            for each in made.jobs
            if by_tensor.get(id(resident.parameters[each.name])) is each
        ]

    @contextmanager
    def hooked(self, module: torch.nn.Module) -> Iterator[None]:
        """Have the merged parameters' gradients taken; without a trace of them behind it, whatever is raised."""
        handles = []
        try:
            for parameter, each in self._jobs:
                if isinstance(parameter, torch.nn.Parameter):  # buffers have no gradient
                    parameter.requires_grad_(True)
                    take = partial(self._take, each)
                    handles.append(parameter.register_post_accumulate_grad_hook(take))  # type: ignore[no-untyped-call]
            yield
        finally:
            for handle in handles:
                handle.remove()
            module.requires_grad_(False)
            module.zero_grad(set_to_none=True)

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """A backward pass: what it gave is added when it ends well, and forgotten when it has to be done again."""
        self._pending = {}
        yield
        for name, found in self._pending.items():
            self.total[name] = _sum(self.total[name], found) if name in self.total else found

    def _take(self, each: MergeJob, parameter: torch.Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is not None:
            self._pending[each.name] = derivative(each, gradient, kept=self._kept)


def _sum(first: Derivative, second: Derivative) -> Derivative:
    return {name: tuple(a + b for a, b in zip(values, second[name], strict=True)) for name, values in first.items()}
