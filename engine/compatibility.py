"""Whether models fit together, and parameters their method: told before any job is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.blocks import Block, Part
from engine.checkpoint import Checkpoint
from engine.entries import ModuleEntry
from engine.errors import CheckpointError, RecipeError
from engine.lookup import nearest
from engine.methods import METHODS
from engine.methods.method import Method
from engine.recipe import Recipe
from engine.slots import own_names

_SHOWN = 3
_SCALES = ("_scale", "_scale_inv")


def check_parameter_names(recipe: Recipe, method: Method) -> None:
    """Raise RecipeError for a parameter that no method has."""
    known = [parameter.name for parameter in method.parameters]
    for where, parameters in _levels(recipe):
        for name in parameters:
            # What another method takes is no typo: recipes often keep it when their method is changed.
            if name not in known and not any(name == p.name for row in METHODS.values() for p in row.parameters):
                raise RecipeError(
                    f"{where}: {method.name} has no {name!r}{nearest(name, known)} (known: {', '.join(known)})"
                )


def _levels(recipe: Recipe) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All places with parameters."""
    parts: list[tuple[str, Recipe | ModuleEntry]] = [("", recipe)]
    parts += [(f"modules.{name}", entry) for name, entry in (recipe.modules or {}).items()]
    for place, part in parts:
        dot = f"{place}." if place else ""
        yield place or "recipe", part.parameters or {}
        for i, model in enumerate(part.models or ()):
            yield f"{dot}models[{i}] ({model.model})", model.parameters or {}
        for i, entry in enumerate(part.slices or ()):
            yield f"{dot}slices[{i}]", entry.parameters or {}
            for j, source in enumerate(entry.sources):
                yield f"{dot}slices[{i}].sources[{j}] ({source.model})", source.parameters or {}


def check_architectures(block: Block) -> None:
    """Raise CheckpointError for sources whose configs name another architecture than the lead's."""
    lead = block.lead
    for source in block.members[1:]:
        for key in ("model_type", "architectures"):
            here, there = source.checkpoint.config.get(key), lead.checkpoint.config.get(key)
            if here and there and here != there:
                raise CheckpointError(
                    f"{source.where}: {key} is {_listed(here)}, {lead.where} has {_listed(there)};"
                    " only fine-tunes of one architecture can be merged"
                )


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_names(part: Part, head: str | None) -> None:
    """Raise CheckpointError unless whole models (or modules) have the same tensors.

    A missing layer of a slice shows when its job is made.
    """
    for block in part.blocks:
        if block.layers is not None:
            continue
        names = own_names(block.lead.checkpoint, part.module, head)
        for source in block.members[1:]:
            there = own_names(source.checkpoint, part.module, head)
            if there == names:
                continue
            if lacking := sorted(set(names) - set(there)):
                raise CheckpointError(f"{source.where}: lacks {_first(lacking)}, which {block.lead.where} has; {_ONLY}")
            extra = sorted(set(there) - set(names))
            raise CheckpointError(f"{source.where}: has {_first(extra)}, which {block.lead.where} lacks; {_ONLY}")


_ONLY = "only fine-tunes of one architecture can be merged"


def _first(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more tensor{'s'[: more != 1]}" if more > 0 else "")


def check_quantised(checkpoint: Checkpoint, name: str, where: str) -> None:
    """Raise CheckpointError for a tensor that means nothing without the scales stored beside it."""
    for scale in _SCALES:
        if name + scale in checkpoint.tensors:
            raise CheckpointError(
                f"{where}: {name} is quantised: {name}{scale} stands beside it; merge the model it was quantised from"
            )
