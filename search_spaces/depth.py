"""How a parameter varies over a model's depth: the row type of `SPACES`, and what a row is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Setting = Any  # a parameter's value in the recipe dialect: scalar, gradient or list of filtered values


@dataclass(frozen=True)
class Family:
    """What a space needs to know of the models: their names, depth and the tensors outside the layers."""

    base: str
    sources: tuple[str, ...]
    layers: int
    outer: tuple[str, ...]
    out_dtype: str

    @property
    def models(self) -> tuple[str, ...]:
        return (self.base, *self.sources)


@dataclass(frozen=True)
class Stack:
    """A parameter's values: one for the tensors outside the layers, and per module group one per position."""

    outer: Setting
    groups: tuple[tuple[str | None, tuple[Setting, ...]], ...]  # (filter, values); None: the layers' rest


@dataclass(frozen=True)
class Assembly:
    """A recipe's parts before they are laid out over depth. `models[i]` is a name and its own parameters."""

    models: tuple[tuple[str, Mapping[str, Stack]], ...]
    shared: Mapping[str, Stack]


@dataclass(frozen=True)
class Depth:
    """One row of `SPACES`.

    `positions(count, layers)` names the places over depth that get genes of their own; `lay_out(assembly,
    family, count)` returns the recipe's `models` or `slices` part as plain data in the dialect.
    """

    positions: Callable[[int, int], tuple[str, ...]]
    lay_out: Callable[[Assembly, Family, int], dict[str, Any]]
    doc: str


def filtered(stack: Stack, outer_names: Sequence[str], pick: Callable[[tuple[Setting, ...]], Setting]) -> list[Setting]:
    """The stack as the dialect's list of filters. Whole names first: the first match wins."""
    outer = [{"filter": name, "value": stack.outer} for name in outer_names]
    named = [{"filter": name, "value": pick(values)} for name, values in stack.groups if name is not None]
    rest = [{"value": pick(values)} for name, values in stack.groups if name is None]
    return [*outer, *named, *rest]


def settings(
    stacks: Mapping[str, Stack], outer_names: Sequence[str], pick: Callable[[tuple[Setting, ...]], Setting]
) -> dict[str, list[Setting]]:
    """A `parameters` section; `outer_names` are the tensors outside the layers that it has to cover."""
    return {name: filtered(stack, outer_names, pick) for name, stack in stacks.items()}


def block_ranges(count: int, layers: int) -> Sequence[tuple[int, int]]:
    """`count` runs of layers as equal as they can be: block i is [i*L//count, (i+1)*L//count)."""
    return [(i * layers // count, (i + 1) * layers // count) for i in range(count)]
