"""Which layers of which models make up the output: the recipe's `models` or `slices`, tied to open checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.architecture import (
    embedding_name,
    head_name,
    is_before_layers,
    is_derived,
    layer_count,
    layer_counts,
    renumber,
    split_layer,
)
from engine.checkpoint import Checkpoint
from engine.entries import ModelEntry, SliceEntry, SliceSource
from engine.errors import RecipeError
from engine.methods.method import Method
from engine.parameters import Setting, gradient_position
from engine.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Source:
    """A model in a block; `first` is its first layer there, None for all layers under their own numbers."""

    checkpoint: Checkpoint
    where: str
    first: int | None
    parameters: Mapping[str, Setting]


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive output layers with the same sources. `base` stands apart where the method needs one."""

    where: str
    sources: tuple[Source, ...]
    base: Source | None
    layers: int | None  # None: the whole model
    parameters: Mapping[str, Setting]

    @property
    def lead(self) -> Source:
        """The source whose names and shapes the others are held against: the base, else the first."""
        return self.base or self.sources[0]

    @property
    def members(self) -> tuple[Source, ...]:
        """All sources, the base first."""
        return (self.base, *self.sources) if self.base else self.sources


@dataclass(frozen=True, eq=False)
class Slot:
    """An output tensor before its parameters are known."""

    name: str
    block: Block
    offset: int | None  # layer within the block
    position: float  # in gradients, 0 to 1

    def name_in(self, source: Source) -> str:
        """Return the tensor's name in a source: its own layer number, the embedding for a tied head's."""
        if self.offset is not None and source.first is not None:
            return renumber(self.name, source.first + self.offset)
        return self.name


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the model's head is its embedding: not stored, or stored but ignored by whoever loads it."""
    return head_name(checkpoint.tensors) is None or bool(checkpoint.config.get("tie_word_embeddings"))


def stored_name(checkpoint: Checkpoint, name: str, head: str | None) -> str:
    """Return the name under which a checkpoint stores a tensor; its embedding's for a head that is tied."""
    if name == head and is_tied(checkpoint):
        return embedding_name(checkpoint.tensors) or name
    return name


def resolve_blocks(recipe: Recipe, method: Method, checkpoints: Mapping[str, Checkpoint]) -> tuple[Block, ...]:
    """Return the blocks, bottom to top. Raises RecipeError for layers, bases or counts of models that do not fit."""
    if recipe.models is not None:
        return (_block(recipe, method, checkpoints, recipe.models, "models", None, None),)
    for checkpoint in checkpoints.values():
        if len(stacks := layer_counts(checkpoint.tensors)) > 1:
            raise RecipeError(
                f"slices: {checkpoint.reference} has several stacks of layers ({', '.join(stacks)}), which slices"
                " cannot tell apart; use models"
            )
    return tuple(
        _block(recipe, method, checkpoints, entry.sources, f"slices[{i}].sources", entry, i)
        for i, entry in enumerate(recipe.slices or ())
    )


def _block(
    recipe: Recipe,
    method: Method,
    checkpoints: Mapping[str, Checkpoint],
    listed: Sequence[ModelEntry | SliceSource],
    where: str,
    entry: SliceEntry | None,
    number: int | None,
) -> Block:
    sources = [_source(e, f"{where}[{i}] ({e.model})", checkpoints) for i, e in enumerate(listed)]
    layers = None if entry is None else entry.sources[0].layer_range[1] - entry.sources[0].layer_range[0]
    place = "recipe" if number is None else f"slices[{number}]"
    base = None
    name = ((entry.base_model if entry else None) or recipe.base_model) if method.base != "ignored" else None
    if name is None and method.base == "required":
        raise RecipeError(f"{place}: {method.name} needs a base_model; add it")
    if name is not None:
        base = next((s for s in sources if s.checkpoint is checkpoints[name]), None)
        if base is None:
            starts = {s.first for s in sources}
            if len(starts) > 1:
                raise RecipeError(f"{place}: the sources take different layers; list {name} with those of the base")
            base = replace(sources[0], checkpoint=checkpoints[name], where=f"base_model ({name})", parameters={})
            _check_range(base, layers)
        sources = [s for s in sources if s is not base]
    _check_count(method, len(sources), base is not None, place)
    for source in sources:
        _check_range(source, layers)
    return Block(place, tuple(sources), base, layers, (entry.parameters if entry else None) or {})


def _source(entry: ModelEntry | SliceSource, where: str, checkpoints: Mapping[str, Checkpoint]) -> Source:
    first = entry.layer_range[0] if isinstance(entry, SliceSource) else None
    return Source(checkpoints[entry.model], where, first, entry.parameters or {})


def _check_range(source: Source, layers: int | None) -> None:
    if layers is None or source.first is None:
        return
    last, there = source.first + layers, layer_count(source.checkpoint.tensors)
    if last > there:
        raise RecipeError(f"{source.where}: layer_range [{source.first}, {last}] goes beyond its {there} layers")


def _check_count(method: Method, count: int, with_base: bool, place: str) -> None:
    low, high = method.inputs
    if count < low or (high is not None and count > high):
        wanted = f"exactly {low}" if low == high else f"at least {low}"
        besides = " besides the base" if with_base else ""
        raise RecipeError(f"{place}: {method.name} takes {wanted} model{'s'[: low != 1]}{besides}, not {count}")


def output_head(blocks: tuple[Block, ...]) -> str | None:
    """Return the head's name if the output stores one: if any model of the last block has a head of its own."""
    return next((head_name(m.checkpoint.tensors) for m in blocks[-1].members if not is_tied(m.checkpoint)), None)


def slots(blocks: tuple[Block, ...], head: str | None) -> Iterator[Slot]:
    """Yield every output tensor, bottom to top, with names as the blocks' leads have them."""
    yield from _outer(blocks[0], head, before=True)
    below = 0
    for block in blocks:
        yield from _inner(block, below)
        below += block.layers or 0
    yield from _outer(blocks[-1], head, before=False)


def _outer(block: Block, head: str | None, *, before: bool) -> Iterator[Slot]:
    """Embeddings come from the first block, final norm and head from the last; gradients give their first value."""
    lead = block.lead.checkpoint
    names = [name for name in own_names(lead, head) if split_layer(name) is None]
    for name in sorted(names):
        if is_before_layers(name) == before:
            yield Slot(name, block, None, gradient_position(None, 0))


def _inner(block: Block, below: int) -> Iterator[Slot]:
    counts = layer_counts(block.lead.checkpoint.tensors)
    found = [(parts, name) for name in own_names(block.lead.checkpoint, None) if (parts := split_layer(name))]
    first = block.lead.first
    for (prefix, layer, _), name in sorted(found):
        if block.layers is None or first is None:
            yield Slot(name, block, layer, gradient_position(layer, counts[prefix]))
        elif first <= layer < first + block.layers:
            offset = layer - first
            position = gradient_position(offset, block.layers)
            yield Slot(renumber(name, below + offset), block, offset, position)


def own_names(checkpoint: Checkpoint, head: str | None) -> list[str]:
    """Return the tensors a model contributes: stored ones but derived buffers, with `head` if the output has one."""
    own_head = head_name(checkpoint.tensors)
    names = [name for name in checkpoint.tensors if name != own_head and not is_derived(name)]
    return [*names, head] if head is not None else names
