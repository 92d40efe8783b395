"""What a search does with one parameter of a method: vary it in a range, choose among values, or leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.methods.method import Parameter
from search_spaces.gene import Value


@dataclass(frozen=True)
class Range:
    """Search the parameter between `low` and `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Choices:
    """Search the parameter among `values`, one value for the whole model."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Fixed:
    """Write `value`; None leaves the method's default."""

    value: Value | None


Bounds = Range | Choices | Fixed


def effective(parameter: Parameter, wanted: Mapping[str, Bounds]) -> Bounds:
    """The user's word on `parameter`, else the bounds that its method declares, else its default."""
    if parameter.name in wanted:
        return wanted[parameter.name]
    if parameter.low is not None and parameter.high is not None:
        return Range(parameter.low, parameter.high)
    return Fixed(None)
