"""Writing a merged checkpoint: complete or not at all, and after an interruption on from the last whole shard."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from engine import unfinished
from engine.checkpoint import open_checkpoint
from engine.companions import code, companions
from engine.errors import CheckpointError, OutputError, RecipeError
from engine.execute import Executor
from engine.kept import Kept
from engine.model_card import model_card as card_of
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.room import check_disk, check_memory, in_units, peak_memory
from engine.shard_file import write_shard
from engine.shard_layout import INDEX_FILE, ShardLayout, index, layout
from engine.target import RECIPE_FILE, check_target

SHARD_BYTES = 5e9
_NO_TOKENIZER = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
"""Companions that belong to the model rather than to its tokenizer."""

Progress = Callable[[int, int], None]
"""Called with (bytes of tensors done, bytes in all); shards of an earlier start count as done."""


def merge_to_folder(
    recipe: Recipe,
    folder: Path,
    *,
    any_architecture: bool = False,
    shard_bytes: float = SHARD_BYTES,
    device: str = "cpu",
    memory: int | None = None,
    copy_tokenizer: bool = True,
    model_card: bool = True,
    progress: Progress | None = None,
) -> Plan:
    """Open the recipe's models, merge them and write the result. Raises EngineError; the folder is then untouched.

    For the keywords see `write_checkpoint`; with `any_architecture` the models' configs may name different ones.
    """
    folder = check_target(folder)
    opened = {reference: open_checkpoint(reference) for reference in recipe.references}
    made = plan(recipe, opened, any_architecture=any_architecture)
    write_checkpoint(
        made,
        folder,
        shard_bytes=shard_bytes,
        device=device,
        memory=memory,
        copy_tokenizer=copy_tokenizer,
        model_card=model_card,
        progress=progress,
    )
    return made


def write_checkpoint(
    plan: Plan,
    folder: Path,
    *,
    shard_bytes: float = SHARD_BYTES,
    device: str = "cpu",
    memory: int | None = None,
    copy_tokenizer: bool = True,
    model_card: bool = True,
    progress: Progress | None = None,
    shared: Kept | None = None,
) -> None:
    """Merge and write all of a checkpoint; `folder` is replaced only when the new one is whole.

    The weights stand in shards of at most `shard_bytes` bytes, or of one tensor; shards that an interrupted start has
    finished are kept (see `engine.unfinished`). `memory` is what may be used on `device`, in bytes. `shared` serves all
    candidates of a search, whose models are known to be finite; else NaN in a source is an error. Raises OutputError
    for too little disk or memory (known before the first byte), missing permission, a folder that is not ours or that
    another process is writing to; and what merging raises.
    """
    folder = check_target(folder)
    if memory is not None:
        check_memory(peak_memory(plan, device), memory, device)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.sole_writer(folder):
            _put_back(folder)
            shards = layout(plan.jobs, shard_bytes)
            partial = unfinished.partial_folder(folder)
            unfinished.drop_link(partial)
            identity = unfinished.identity(plan, shards, device)
            kept = unfinished.finished(partial, identity, shards)
            unfinished.begin(partial, identity, kept)
            try:
                check_disk(folder.parent, sum(shard.size for shard in shards if shard.file not in kept))
                _write_files(plan, partial, copy_tokenizer, model_card)
                executor = Executor(device=device, kernels=plan.kernels, kept=shared, check_sources=shared is None)
                _write_weights(shards, kept, partial, executor, progress)
                check_target(folder)  # a long merge gives time to put something there
                _move_into_place(partial, folder)
            except (RecipeError, CheckpointError):  # the same start would fail again
                shutil.rmtree(partial, ignore_errors=True)
                raise
            except BaseException:
                unfinished.leave_off(partial, shards)
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{folder}: the disk is full; {in_units(plan.write_bytes)} are needed; free some space, and the same"
                " command goes on from the last whole file"
            ) from None
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}; choose another folder") from None


def _write_files(plan: Plan, folder: Path, copy_tokenizer: bool, model_card: bool) -> None:
    """Everything but the weights."""
    beside = companions(plan.donor.folder)
    if not copy_tokenizer and not plan.files:  # a tokenizer that the recipe makes is part of the result
        beside = [path for path in beside if path.name in _NO_TOKENIZER]
    # The owner's code last: config.json is the owner's, and it names that code.
    for path in (*beside, *code(plan.donor.folder), *code(plan.owner.folder)):
        if path.name not in plan.files:
            _put(folder / path.name, _content(path))
    for name, content in plan.files.items():
        if content is not None:
            _put(folder / name, content)
    _put(folder / "config.json", (json.dumps(plan.config, indent=2) + "\n").encode())
    _put(folder / RECIPE_FILE, plan.recipe_text.encode())
    if model_card:
        _put(folder / "README.md", card_of(plan).encode())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; make it readable") from None


def _put(path: Path, content: bytes) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_weights(
    shards: Sequence[ShardLayout], kept: frozenset[str], folder: Path, executor: Executor, progress: Progress | None
) -> None:
    total = sum(shard.tensor_bytes for shard in shards)
    done = sum(shard.tensor_bytes for shard in shards if shard.file in kept)

    lock = threading.Lock()

    def advance(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            if progress is not None:
                progress(done, total)

    advance(0)
    for shard in shards:
        if shard.file not in kept:
            growing = folder / f"{shard.file}.tmp"
            write_shard(shard, growing, executor, advance)
            growing.rename(folder / shard.file)
    if len(shards) > 1:
        _put(folder / INDEX_FILE, index(shards).encode())


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _put_back(folder: Path) -> None:
    """Mend what a process left that was killed between the two renames."""
    aside = _aside(folder)
    unfinished.drop_link(aside)
    if aside.exists() and not folder.exists():
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _move_into_place(partial: Path, folder: Path) -> None:
    """Rename; an earlier checkpoint is set aside first, and back if the rename fails."""
    aside = _aside(folder)
    _sync(partial)
    if folder.exists():
        folder.rename(aside)
    try:
        partial.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    (folder / unfinished.NOTE).unlink()  # not before: the shards would belong to nobody if the rename failed
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
