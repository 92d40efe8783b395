"""A few knots over depth, interpolated in between; in a recipe: a gradient (a list of values)."""

from __future__ import annotations

from typing import Any

from search_spaces.depth import Assembly, Depth, Family, Setting, settings
from search_spaces.layouts.blocks import strip


def positions(count: int, layers: int) -> tuple[str, ...]:
    del layers
    return tuple(f"knot_{index}" for index in range(count))


def gradient(values: tuple[Setting, ...]) -> Setting:
    return list(values) if len(values) > 1 else values[0]


def lay_out(assembly: Assembly, family: Family, count: int) -> dict[str, Any]:
    del count
    models = [
        strip({"model": model, "parameters": settings(stacks, family.outer, gradient)})
        for model, stacks in assembly.models
    ]
    parts: dict[str, Any] = {"models": models}
    if assembly.shared:
        parts["parameters"] = settings(assembly.shared, family.outer, gradient)
    return parts


DEPTH = Depth(positions, lay_out, "`layers: {smooth: N}`: N knots over depth, interpolated in between")
