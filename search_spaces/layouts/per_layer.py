"""Every layer with genes of its own: as many blocks as there are layers."""

from __future__ import annotations

from typing import Any

from search_spaces.depth import Assembly, Depth, Family
from search_spaces.layouts import blocks


def positions(count: int, layers: int) -> tuple[str, ...]:
    del count  # the model decides
    return tuple(f"layer_{index}" for index in range(layers))


def lay_out(assembly: Assembly, family: Family, count: int) -> dict[str, Any]:
    del count
    return blocks.lay_out(assembly, family, family.layers)


DEPTH = Depth(positions, lay_out, "`layers: per_layer`: every layer with genes of its own")
