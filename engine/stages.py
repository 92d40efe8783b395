"""Several merges in one file: documents that name each other, in the order in which they must be merged.

Every document of the YAML file is a recipe; what stands under `name:` can be a model of the others. The document
without a name is the output, else the last one. Results in between stand in `.NAME.stages` beside the target NAME
until that is whole; after an interruption a finished one is used again if all that it follows from is the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import unfinished
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.errors import CheckpointError, OutputError, RecipeError, shown
from engine.plan import Plan, plan
from engine.recipe import Recipe, read_documents
from engine.shard_layout import layout
from engine.target import check_target
from engine.write import SHARD_BYTES, write_checkpoint

_LONGEST = 80
"""Letters of a name in a message."""


@dataclass(frozen=True)
class Stage:
    """One merge of several. `uses` are the names of the stages whose results it takes."""

    name: str | None
    recipe: Recipe
    uses: tuple[str, ...]


def read_stages(text: str, where: str = "recipe") -> tuple[Stage, ...]:
    """Return the file's merges in order of execution, the output last; one for a file with a single recipe.

    Raises RecipeError for documents that are no recipes, names that stand twice, cycles and results nobody uses.
    """
    documents = [document for document in read_documents(text, where) if document is not None]
    several = len(documents) > 1
    recipes = [
        Recipe.from_content(document, f"{where}[{i}]" if several else where) for i, document in enumerate(documents)
    ]
    if not recipes:
        raise RecipeError(f"{where}: is empty; write a recipe")
    names = [recipe.name for recipe in recipes if recipe.name is not None] if several else []
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise RecipeError(f"{where}: two documents have the name {shown(twice[0])}; rename one")
    unnamed = [recipe for recipe in recipes if recipe.name is None]
    if len(unnamed) > 1:
        raise RecipeError(f"{where}: {len(unnamed)} documents have no name, and only the output may lack it; add names")
    stages = [Stage(r.name, r, tuple(dict.fromkeys(_uses(r, names)))) for r in recipes]
    output = next((stage for stage in stages if stage.name is None), stages[-1])
    ordered = _in_order(output, {stage.name: stage for stage in stages if stage.name is not None}, where)
    if unused := [stage.name for stage in stages if stage not in ordered]:
        raise RecipeError(
            f"{where}: the result of {shown(unused[0])} is used by no other document; one file makes one checkpoint, so"
            " move it to a file of its own"
        )
    return ordered


def _uses(recipe: Recipe, names: Sequence[str]) -> list[str]:
    return [name for reference in recipe.references if (name := _stage_of(reference, names)) is not None]


def _stage_of(reference: str, names: Sequence[str]) -> str | None:
    """The stage whose result a model's name stands for, with an adapter or without."""
    return next((name for name in names if reference == name or reference.startswith(f"{name}+")), None)


def _in_order(output: Stage, by_name: Mapping[str, Stage], where: str) -> tuple[Stage, ...]:
    """What the output needs, each after all that it uses."""
    ordered: list[Stage] = []

    def visit(stage: Stage, trail: tuple[str, ...]) -> None:
        name = stage.name or "the output"
        if name in trail:
            circle = " -> ".join(each[:_LONGEST] for each in (*trail, name))
            raise RecipeError(f"{where}: the documents use each other in a circle: {circle}")
        if stage not in ordered:
            for used in stage.uses:
                visit(by_name[used], (*trail, name))
            ordered.append(stage)

    visit(output, ())
    return tuple(ordered)


def stages_folder(folder: Path) -> Path:
    """Return where results in between stand, beside the target."""
    return folder.with_name(f".{folder.name}.stages")


def stage_folder(folder: Path, name: str) -> Path:
    """Return where the stage's result stands; of its name only a digest, as a name may be a path, or long."""
    return stages_folder(folder) / hashlib.sha256(name.encode()).hexdigest()[:16]


def merge_stages(
    stages: Sequence[Stage],
    folder: Path,
    *,
    any_architecture: bool = False,
    shard_bytes: float = SHARD_BYTES,
    device: str = "cpu",
    **options: Any,
) -> Plan:
    """Merge all stages and write the last one's result; return its plan.

    For the keywords, `options` among them, see `engine.write.write_checkpoint`. Raises EngineError; `folder` is then
    untouched. Finished results in between are kept for the next start, unless that would fail in the same way.
    """
    folder = check_target(folder)
    scratch = stages_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.sole_writer(scratch):
            unfinished.drop_link(scratch)
            try:
                made = _merge_in_order(stages, folder, any_architecture, shard_bytes, device, options)
            except (RecipeError, CheckpointError):  # the same start would fail again
                shutil.rmtree(scratch, ignore_errors=True)
                raise
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}; choose another folder") from None
    return made


def _merge_in_order(
    stages: Sequence[Stage],
    folder: Path,
    any_architecture: bool,
    shard_bytes: float,
    device: str,
    options: Mapping[str, Any],
) -> Plan:
    places: dict[str, Path] = {}
    for stage in stages[:-1]:
        made = plan(stage.recipe, _opened(stage.recipe, places), any_architecture=any_architecture)
        target = places[stage.name or ""] = stage_folder(folder, stage.name or "")
        unfinished.drop_link(target)
        note = target.with_name(f"{target.name}.identity")
        identity = unfinished.identity(made, layout(made.jobs, shard_bytes), device)
        if not target.is_dir() or _read(note) != identity:
            between = {**options, "copy_tokenizer": True, "model_card": False}
            with suppress(NotADirectoryError):  # what is no folder is refused below
                note.unlink(missing_ok=True)  # before the weights change: it must never stand beside others
            write_checkpoint(made, target, shard_bytes=shard_bytes, device=device, **between)
            with suppress(OSError):  # without it the result is made again, no more
                note.write_text(identity, encoding="utf-8")
    made = plan(stages[-1].recipe, _opened(stages[-1].recipe, places), any_architecture=any_architecture)
    made = dataclasses.replace(made, earlier=tuple(stage.recipe for stage in stages[:-1]))
    write_checkpoint(made, folder, shard_bytes=shard_bytes, device=device, **options)
    return made


def _opened(recipe: Recipe, places: Mapping[str, Path]) -> dict[str, Checkpoint]:
    opened: dict[str, Checkpoint] = {}
    for reference in recipe.references:
        stage = _stage_of(reference, list(places))
        stored = reference if stage is None else f"{places[stage]}{reference[len(stage) :]}"
        opened[reference] = open_checkpoint(stored)
    return opened


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
