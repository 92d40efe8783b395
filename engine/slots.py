"""The output's tensors, by name: what each block contributes, bottom to top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.architecture import is_before_layers, renumber, split_layer
from engine.blocks import Block, Part, Source
from engine.checkpoint import Checkpoint
from engine.layout import layout
from engine.parameters import gradient_position


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
    return layout(checkpoint).head is None or bool(checkpoint.config.get("tie_word_embeddings"))


def stored_name(checkpoint: Checkpoint, name: str, head: str | None) -> str:
    """Return the name under which a checkpoint stores a tensor; its embedding's for a head that is tied."""
    if name == head and is_tied(checkpoint):
        return layout(checkpoint).embedding or name
    return name


def output_head(parts: Sequence[Part]) -> str | None:
    """Return the head's name if the output stores one: if any model of its last block has a head of its own."""
    for part in parts:
        members = [m.checkpoint for m in part.blocks[-1].members]
        if part.module is None or part.module == layout(members[0]).head_module:
            return next((layout(member).head for member in members if not is_tied(member)), None)
    return None


def own_names(checkpoint: Checkpoint, module: str | None, head: str | None) -> list[str]:
    """Return the tensors a model contributes: stored ones but derived buffers, with `head` if the output has one."""
    there = layout(checkpoint)
    if module is not None and module not in there.modules:
        return []
    names = [name for held in there.modules.values() for name in held] if module is None else there.modules[module]
    own = sorted(name for name in names if name != there.head)
    return [*own, head] if head is not None and module in (None, there.head_module) else own


def slots(parts: Sequence[Part], head: str | None) -> Iterator[Slot]:
    """Yield every output tensor, bottom to top, with names as the blocks' leads have them."""
    for part in parts:
        yield from _outer(part, part.blocks[0], head, before=True)
        below = 0
        for block in part.blocks:
            yield from _inner(part, block, below)
            below += block.layers or 0
        yield from _outer(part, part.blocks[-1], head, before=False)


def _outer(part: Part, block: Block, head: str | None, *, before: bool) -> Iterator[Slot]:
    """Embeddings come from the first block, final norm and head from the last; gradients give their first value."""
    for name in sorted(own_names(block.lead.checkpoint, part.module, head)):
        parts = split_layer(name)
        # Slices renumber one stack; what has numbers of its own beside it, such as a projector, stays as it is.
        shared = name in layout(block.lead.checkpoint).shared
        outer = parts is None or (block.layers is not None and (shared or parts[0] != part.stack))
        if outer and (shared or is_before_layers(name)) == before:
            yield Slot(name, block, None, gradient_position(None, 0))


def _inner(part: Part, block: Block, below: int) -> Iterator[Slot]:
    there, first = layout(block.lead.checkpoint), block.lead.first
    if block.layers is not None and first is not None:
        for offset in range(block.layers):
            position = gradient_position(offset, block.layers)
            for name in there.layers[part.stack or ""].get(first + offset, ()):
                if name not in there.shared:
                    yield Slot(renumber(name, below + offset), block, offset, position)
        return
    for stack in sorted(there.layers):
        for layer in sorted(there.layers[stack]):
            position = gradient_position(layer, there.counts[stack])
            for name in there.layers[stack][layer]:
                if there.holds(part.module, name):
                    yield Slot(name, block, layer, position)
