"""What a merge method is: a row of METHODS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

Rng = Callable[[int], torch.Generator]
"""Source position -> its generator on the CPU; a function of recipe seed, source and tensor name."""


class Reference(Protocol):
    """The method itself, in torch.

    `tensors` are the k inputs in the recipe's order (the base excluded where the method requires one), `base` the
    base's tensor or None; all of one shape, on one device, in float32 or float64, never to be written to.
    `p` holds every declared parameter: a scalar for scope `shared`, else a tuple with a value per tensor.
    Returns the merged tensor, same shape, dtype and device. Raises RecipeError for values that have no merge.
    """

    def __call__(
        self, tensors: Sequence[torch.Tensor], base: torch.Tensor | None, p: Mapping[str, Any], rng: Rng
    ) -> torch.Tensor: ...


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method. `low` and `high` bound a search; None: not searched unless asked for."""

    name: str
    default: float | bool | None  # None: required, or None itself where `optional`
    doc: str
    low: float | None = None
    high: float | None = None
    scope: Literal["shared", "input", "non_base"] = "shared"
    kind: type[float] | type[bool] = float
    optional: bool = False

    @property
    def required(self) -> bool:
        """Whether the recipe must give a value."""
        return self.default is None and not self.optional


Invariant = Literal["identity", "order", "scale"]
"""identity: inputs and base all equal give that tensor. order: inputs may be permuted with their parameters.
scale: scaling all inputs and the base scales the result."""


@dataclass(frozen=True)
class Method:
    """A merge method. `inputs` is the fewest and the most models it takes, the base not counted if required."""

    name: str
    reference: Reference
    parameters: tuple[Parameter, ...]
    base: Literal["required", "optional", "ignored"]
    inputs: tuple[int, int | None]
    differentiable: bool
    invariants: tuple[Invariant, ...]
    paper: str


INT8_MASK = Parameter("int8_mask", False, "mergekit's dtype of temporary masks; no effect on the result", kind=bool)
