"""Blocks of consecutive layers, each with genes of its own; in a recipe: one slice a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.depth import Assembly, Depth, Family, Setting, Stack, block_ranges, settings


def positions(count: int, layers: int) -> tuple[str, ...]:
    return tuple(f"layers_{start}_{end - 1}" for start, end in block_ranges(count, layers))


def lay_out(assembly: Assembly, family: Family, count: int) -> dict[str, Any]:
    ranges = block_ranges(count, family.layers)
    return {"slices": [block(assembly, family, ranges, place) for place in range(count)]}


def block(assembly: Assembly, family: Family, ranges: Sequence[tuple[int, int]], place: int) -> dict[str, Any]:
    """One slice. Tensors outside the layers take their values from the first slice or from the last one."""
    outer = family.outer if place in (0, len(ranges) - 1) else ()

    def here(stacks: Mapping[str, Stack]) -> dict[str, list[Setting]]:
        return settings(stacks, outer, lambda values: values[place])

    sources = [
        strip({"model": model, "layer_range": list(ranges[place]), "parameters": here(stacks)})
        for model, stacks in assembly.models
    ]
    return strip({"sources": sources, "parameters": here(assembly.shared)})


def strip(entry: dict[str, Any]) -> dict[str, Any]:
    """Without an empty `parameters` section (the base of a task-vector method has none)."""
    return {key: value for key, value in entry.items() if value != {}}


DEPTH = Depth(positions, lay_out, "`layers: N`: N blocks of consecutive layers with genes of their own")
