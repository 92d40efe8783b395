"""Which layers of which models make up the output: `models`, `slices` or `modules`, tied to checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.checkpoint import Checkpoint
from engine.entries import ModelEntry, ModuleEntry, SliceEntry, SliceSource
from engine.errors import RecipeError
from engine.layout import layout
from engine.lookup import nearest
from engine.methods import METHODS
from engine.methods.method import Method
from engine.parameters import Setting
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
    """Consecutive output layers with the same sources. `base` stands apart where the method needs one.

    `levels` are the parameters that hold for all sources, the nearest first: the slice's, the module's, the recipe's.
    """

    where: str
    method: Method
    sources: tuple[Source, ...]
    base: Source | None
    layers: int | None  # None: all of a model or module
    levels: tuple[Mapping[str, Setting], ...]

    @property
    def lead(self) -> Source:
        """The source whose names and shapes the others are held against: the base, else the first."""
        return self.base or self.sources[0]

    @property
    def members(self) -> tuple[Source, ...]:
        """All sources, the base first."""
        return (self.base, *self.sources) if self.base else self.sources


@dataclass(frozen=True, eq=False)
class Part:
    """A module of the output, or all of it (`module` None), from bottom to top; `stack` is what slices renumber."""

    module: str | None
    stack: str | None
    blocks: tuple[Block, ...]


def resolve_parts(recipe: Recipe, method: Method, checkpoints: Mapping[str, Checkpoint]) -> tuple[Part, ...]:
    """Return the parts of the output. Raises RecipeError for layers, bases, modules or counts that do not fit."""
    top = recipe.parameters or {}
    maker = _Maker(recipe, method, checkpoints)
    if recipe.modules is not None:
        return maker.modules(recipe.modules, top)
    stack = None
    if recipe.slices is not None:
        for checkpoint in (checkpoints[name] for name in recipe.references):
            found = layout(checkpoint)
            if len(found.counts) > 1:
                raise RecipeError(
                    f"slices: {checkpoint.reference} has several stacks of layers ({', '.join(found.counts)}), which"
                    f" slices cannot tell apart; write them under modules: {', '.join(found.modules)}"
                )
        stack = next(iter(layout(checkpoints[recipe.slices[0].sources[0].model]).counts), None)
    return (Part(None, stack, maker.blocks(recipe, "", stack, (top,))),)


@dataclass(frozen=True)
class _Maker:
    recipe: Recipe
    method: Method
    checkpoints: Mapping[str, Checkpoint]

    def modules(self, entries: Mapping[str, ModuleEntry], top: Mapping[str, Setting]) -> tuple[Part, ...]:
        """A part for each module that is named; the others are copied from the base, or else from the first model."""
        first = next(iter(entries.values()))
        name = self.recipe.base_model or (first.models[0] if first.models else first.slices[0].sources[0]).model  # type: ignore[index]
        owner = self.checkpoints[name]
        there = layout(owner)
        parts: list[Part] = []
        for wanted, entry in entries.items():
            module = there.find(wanted)
            if module is None:
                known = list(there.modules)
                raise RecipeError(
                    f"modules.{wanted}: {name} has no such module{nearest(wanted, known)} (it has: {', '.join(known)})"
                )
            if any(part.module == module for part in parts):
                raise RecipeError(f"modules.{wanted}: the module {module} of {name} stands twice; merge the entries")
            stack = there.stacks[module]
            if entry.slices is not None and stack is None:
                raise RecipeError(f"modules.{wanted}.slices: the module {module} has no layers; use models")
            blocks = self.blocks(entry, f"modules.{wanted}", stack, (entry.parameters or {}, top))
            parts.append(Part(module, stack, blocks))
        named = [part.module for part in parts]
        source = Source(owner, f"copied ({name})", None, {})
        copied = Block("modules", METHODS["passthrough"], (source,), None, None, ())
        parts += [Part(m, there.stacks[m], (copied,)) for m in there.modules if m not in named]
        return tuple(parts)

    def blocks(
        self, part: Recipe | ModuleEntry, place: str, stack: str | None, levels: tuple[Mapping[str, Setting], ...]
    ) -> tuple[Block, ...]:
        """The blocks, bottom to top."""
        dot = f"{place}." if place else ""
        if part.models is not None:
            return (self._block(part.models, f"{dot}models", place or "recipe", None, stack, levels),)
        return tuple(
            self._block(e.sources, f"{dot}slices[{i}].sources", f"{dot}slices[{i}]", e, stack, levels)
            for i, e in enumerate(part.slices or ())
        )

    def _block(
        self,
        listed: Sequence[ModelEntry | SliceSource],
        where: str,
        place: str,
        entry: SliceEntry | None,
        stack: str | None,
        levels: tuple[Mapping[str, Setting], ...],
    ) -> Block:
        sources = [self._source(e, f"{where}[{i}] ({e.model})") for i, e in enumerate(listed)]
        layers = None if entry is None else entry.sources[0].layer_range[1] - entry.sources[0].layer_range[0]
        base = self._base(entry, sources, place, layers, stack)
        sources = [s for s in sources if s is not base]
        _check_count(self.method, len(sources), base is not None, place)
        for source in sources:
            _check_range(source, layers, stack)
        own = (entry.parameters or {},) if entry else ()
        return Block(place, self.method, tuple(sources), base, layers, (*own, *levels))

    def _source(self, entry: ModelEntry | SliceSource, where: str) -> Source:
        first = entry.layer_range[0] if isinstance(entry, SliceSource) else None
        return Source(self.checkpoints[entry.model], where, first, entry.parameters or {})

    def _base(
        self, entry: SliceEntry | None, sources: Sequence[Source], place: str, layers: int | None, stack: str | None
    ) -> Source | None:
        if self.method.base == "ignored":
            return None
        name = (entry.base_model if entry else None) or self.recipe.base_model
        if name is None:
            if self.method.base == "required":
                raise RecipeError(f"{place}: {self.method.name} needs a base_model; add it")
            return None
        checkpoint = self.checkpoints[name]
        base = next((s for s in sources if s.checkpoint is checkpoint), None)
        if base is None:
            if len({s.first for s in sources}) > 1:
                raise RecipeError(f"{place}: the sources take different layers; list {name} with those of the base")
            base = replace(sources[0], checkpoint=checkpoint, where=f"base_model ({name})", parameters={})
            _check_range(base, layers, stack)
        return base


def _check_range(source: Source, layers: int | None, stack: str | None) -> None:
    if layers is None or source.first is None:
        return
    last, there = source.first + layers, layout(source.checkpoint).counts.get(stack or "", 0)
    if last > there:
        raise RecipeError(f"{source.where}: layer_range [{source.first}, {last}] goes beyond its {there} layers")


def _check_count(method: Method, count: int, with_base: bool, place: str) -> None:
    low, high = method.inputs
    if count < low or (high is not None and count > high):
        wanted = f"exactly {low}" if low == high else f"at least {low}"
        besides = " besides the base" if with_base else ""
        raise RecipeError(f"{place}: {method.name} takes {wanted} model{'s'[: low != 1]}{besides}, not {count}")
