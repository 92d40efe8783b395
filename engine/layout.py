"""How a checkpoint's tensors are laid out: stacks of layers, the modules that hold them, embedding and head.

A model with one stack of layers is one module. Where there are several stacks, a module is what stands below one
part of a name: the part at which the names of the stacks part ways. So `model.language_model.layers.0.…` and
`model.visual.blocks.0.…` give the modules `language_model` and `visual`, T5 gives `encoder`, `decoder` and
`shared`. A head belongs to the module that holds the token embedding, or else to the decoder.
"""

from __future__ import annotations

import weakref
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.architecture import embedding_name, head_name, is_derived, layer_counts, renumber, split_layer
from engine.checkpoint import Checkpoint

WHOLE = "default"
"""The module of a model that has only one, as mergekit calls it."""

_SHARED = "relative_attention_bias.weight"
_ALIASES = (
    ("text_decoder", "text_model", "language_model", "text", "llm"),
    ("vision_tower", "vision_model", "vision_encoder", "visual", "vision"),
    ("audio_tower", "audio_encoder", "audio"),
    ("multi_modal_projector", "projector", "connector"),
)
_HINTS = ((), ("visual", "vision", "image"), ("audio", "speech"), ("project", "connector", "merger", "aligner"))


@dataclass(frozen=True, eq=False)
class Layout:
    """A checkpoint's tensors, derived buffers left out.

    `layers`: stack -> layer -> names. `modules`: module -> names. `stacks`: module -> its tallest stack, None for one
    without layers. `shared`: what stands in a stack's first layer for all of them.
    """

    embedding: str | None
    head: str | None
    counts: Mapping[str, int]
    layers: Mapping[str, Mapping[int, Sequence[str]]]
    modules: Mapping[str, frozenset[str]]
    stacks: Mapping[str, str | None]
    head_module: str
    shared: frozenset[str]

    def holds(self, module: str | None, name: str) -> bool:
        """Whether a module has a stored tensor; None is the whole model."""
        return module is None or name in self.modules[module]

    def find(self, wanted: str) -> str | None:
        """Return the module that goes by a name: its own, or one of the names in use for its kind."""
        if wanted in self.modules:
            return wanted
        kind = next((i for i, names in enumerate(_ALIASES) if wanted in names), None)
        if kind is None:
            return None
        if kind == 0:
            return self.head_module if self.head_module in self.modules else None
        found = [name for name in self.modules if any(hint in name for hint in _HINTS[kind])]
        return found[0] if len(found) == 1 else None


_known: weakref.WeakKeyDictionary[Checkpoint, Layout] = weakref.WeakKeyDictionary()


def layout(checkpoint: Checkpoint) -> Layout:
    """Return a checkpoint's layout, found once: a search plans hundreds of recipes over the same models."""
    found = _known.get(checkpoint)
    if found is None:
        found = _known[checkpoint] = read_layout([name for name in checkpoint.tensors if not is_derived(name)])
    return found


def read_layout(names: Sequence[str]) -> Layout:
    """Return the layout of tensors with these names."""
    counts = layer_counts(names)
    layers: dict[str, dict[int, list[str]]] = {stack: {} for stack in counts}
    for name in sorted(names):
        if parts := split_layer(name):
            layers[parts[0]].setdefault(parts[1], []).append(name)
    stored = frozenset(names)
    embedding, head = embedding_name(names), head_name(names)
    modules = _modules(names, counts)
    home = next((module for module, held in modules.items() if embedding in held), WHOLE)
    stacks = {module: _tallest(held, counts) for module, held in modules.items()}
    if stacks.get(home) is None and "decoder" in modules:
        home = "decoder"
    if head is not None:
        for module in [module for module, held in modules.items() if head in held and module != home]:
            modules[module].discard(head)
            if not modules[module]:
                del modules[module], stacks[module]
        modules.setdefault(home, set()).add(head)
        stacks.setdefault(home, None)
    frozen = {module: frozenset(held) for module, held in modules.items()}
    shared = frozenset(name for name in names if _is_shared(name, stored))
    return Layout(embedding, head, counts, layers, frozen, stacks, home, shared)


def _is_shared(name: str, names: Container[str]) -> bool:
    """T5's position biases: stored with the first layer, used by all."""
    parts = split_layer(name) if name.endswith(_SHARED) else None
    return parts is not None and parts[1] == 0 and renumber(name, 1) not in names


def _modules(names: Iterable[str], counts: Mapping[str, int]) -> dict[str, set[str]]:
    if len(counts) < 2:
        return {WHOLE: set(names)}
    paths = [stack.split(".")[:-1] for stack in counts]
    depth = 0
    while len({tuple(path[: depth + 1]) for path in paths}) == 1 and all(len(path) > depth + 1 for path in paths):
        depth += 1
    modules: dict[str, set[str]] = {}
    for name in names:
        path = name.split(".")
        below = depth if path[:depth] == paths[0][:depth] and len(path) > depth + 1 else 0
        modules.setdefault(path[below], set()).add(name)
    return modules


def _tallest(names: Iterable[str], counts: Mapping[str, int]) -> str | None:
    """The stack with the most layers, of equals the one with the most tensors."""
    sizes: dict[str, int] = {}
    for name in names:
        if parts := split_layer(name):
            sizes[parts[0]] = sizes.get(parts[0], 0) + 1
    return max(sizes, key=lambda stack: (counts[stack], sizes[stack]), default=None)
