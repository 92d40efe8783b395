"""What a merge method is: a row of METHODS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

Rng = Callable[[int], int]
"""Source position -> the 64-bit key of its draws (see `draws`); a function of recipe seed, source and tensor name."""
Array = npt.NDArray[Any]
Scalar = bool | int | float


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
    """A parameter of a method.

    `low` and `high` bound a search; None: not searched unless asked for. `least` and `most` bound what a recipe may
    say at all; None: any number.
    """

    name: str
    default: Scalar | None  # None: required, or None itself where `optional`
    doc: str
    low: float | None = None
    high: float | None = None
    scope: Literal["shared", "input", "non_base"] = "shared"
    kind: type[float] | type[bool] | type[int] = float
    optional: bool = False
    least: float | None = None
    most: float | None = None

    @property
    def required(self) -> bool:
        """Whether the recipe must give a value."""
        return self.default is None and not self.optional

    def typed(self, value: Scalar) -> Scalar:
        """Return a recipe's value in the parameter's kind.

        Raises ValueError for another kind or a value out of bounds: `density is 1.5; give a number from 0 to 1`.
        """
        if self.kind is bool:
            if value not in (0, 1):
                raise ValueError(f"{self.name} is {value}; give true or false")
            return bool(value)
        if isinstance(value, bool):
            raise ValueError(f"{self.name} is {str(value).lower()}; give a number")
        if self.kind is int and value != int(value):
            raise ValueError(f"{self.name} is {value}; give a whole number")
        if (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
            upper = "" if self.most is None else f" to {self.most:g}"
            raise ValueError(f"{self.name} is {value:g}; give a number from {self.least:g}{upper}{' on' * (not upper)}")
        return int(value) if self.kind is int else float(value)


@dataclass(frozen=True)
class Combination:
    """Says that a method weighs whole tensors: it returns sum_i c_i V_i, with one number c_i for each tensor.

    The V_i are the inputs X_i ("inputs"); the base and then the inputs ("base and inputs"); or, where there is a base,
    the task vectors X_i - B with B added to the sum ("deltas"; the inputs where there is none).
    `coefficients(G, p)` returns the c_i (call `weigh`, which is safe from infinite weights). G is the Gram matrix of
    the V_i, G_ij = <V_i, V_j> over all elements, in float64, shape (m, m); empty where `gram` is False, so that nobody
    needs to compute it.
    `whole(p)` is False for parameters with which the method works row by row, and is no combination.
    """

    of: Literal["inputs", "base and inputs", "deltas"]
    coefficients: Callable[[Array, Mapping[str, Any]], Sequence[float]]
    gram: bool = True
    whole: Callable[[Mapping[str, Any]], bool] = lambda p: True

    def weigh(self, gram: Array, p: Mapping[str, Any]) -> Sequence[float]:
        """Return the c_i; all NaN where a tensor is not finite, as the result will be."""
        return self.coefficients(gram, p) if np.isfinite(gram).all() else [math.nan] * len(gram)


Invariant = Literal["identity", "order", "scale"]
"""identity: inputs and base all equal give that tensor. order: inputs may be permuted with their parameters.
scale: scaling all inputs and the base scales the result (but for the guards against division by 0)."""


@dataclass(frozen=True)
class Method:
    """A merge method. `inputs` is the fewest and the most models it takes, the base not counted unless ignored.

    `differentiable`: in its weights (see `engine.derivative`), whatever it keeps and whatever signs it elects held
    fixed. `sparsified`: it adds task vectors of which a part is kept (see `merge_task_vectors`): their weighted sum, or
    that of the elements which agree with the elected sign.
    """

    name: str
    reference: Reference
    parameters: tuple[Parameter, ...]
    base: Literal["required", "optional", "ignored"]
    inputs: tuple[int, int | None]
    differentiable: bool
    invariants: tuple[Invariant, ...]
    paper: str
    combination: Combination | None = None
    sparsified: Literal["sum", "consensus"] | None = None

    @property
    def consensus(self) -> bool:
        """Whether signs are elected."""
        return self.sparsified == "consensus"


INT8_MASK = Parameter("int8_mask", False, "mergekit's dtype of temporary masks; no effect on the result", kind=bool)
