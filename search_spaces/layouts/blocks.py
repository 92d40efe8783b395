"""Blocks of consecutive layers, each with genes of its own; in a recipe: one slice a block."""

from __future__ import annotations

from typing import Any

from search_spaces.depth import Assembly, Depth, Family, block_ranges, settings


def positions(count: int, layers: int) -> tuple[str, ...]:
    return tuple(f"layers_{start}_{end - 1}" for start, end in block_ranges(count, layers))


def lay_out(assembly: Assembly, family: Family, count: int) -> dict[str, Any]:
    slices = []
    for place, (start, end) in enumerate(block_ranges(count, family.layers)):
        sources = [
            {
                "model": model,
                "layer_range": [start, end],
                "parameters": settings(stacks, family, lambda values, i=place: values[i]),  # type: ignore[misc]
            }
            for model, stacks in assembly.models
        ]
        block: dict[str, Any] = {"sources": [strip(source) for source in sources]}
        if assembly.shared:
            block["parameters"] = settings(assembly.shared, family, lambda values, i=place: values[i])  # type: ignore[misc]
        slices.append(block)
    return {"slices": slices}


def strip(entry: dict[str, Any]) -> dict[str, Any]:
    """Without an empty `parameters` section (the base of a task-vector method has none)."""
    return {key: value for key, value in entry.items() if value != {}}


DEPTH = Depth(positions, lay_out, "`layers: N`: N blocks of consecutive layers with genes of their own")
