"""Writing a merged checkpoint: complete or not at all.

The shapes and dtypes of all tensors are known from the plan, so a shard's header is written first and its tensors
follow as they are merged; no shard is ever held in memory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from engine.checkpoint import open_checkpoint
from engine.companions import code, companions
from engine.errors import CheckpointError, OutputError
from engine.job import Job
from engine.merge import run
from engine.model_card import model_card
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.shard import DTYPE_NAMES

RECIPE_FILE = "merge_recipe.yaml"
_MARGIN = 64 << 20
"""Bytes kept free besides the weights: tokenizer files and the file system's own needs."""

Progress = Callable[[int, int], None]
"""Called with (tensors done, tensors in all) after each tensor."""


def merge_to_folder(recipe: Recipe, folder: Path, *, device: str = "cpu", progress: Progress | None = None) -> Plan:
    """Open the recipe's models, merge them and write the result. Raises EngineError; the folder is then untouched."""
    check_target(folder)
    made = plan(recipe, {reference: open_checkpoint(reference) for reference in recipe.references})
    write_checkpoint(made, folder, progress=progress, device=device)
    return made


def check_target(folder: Path) -> None:
    """Raise OutputError unless the folder is absent, empty, or a checkpoint that we wrote."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE_FILE).is_file():
        raise OutputError(f"{folder}: is not empty and holds no {RECIPE_FILE}; name a new folder or remove this one")


def write_checkpoint(
    plan: Plan,
    folder: Path,
    *,
    shard_bytes: float = 5e9,
    progress: Progress | None = None,
    device: str = "cpu",
) -> None:
    """Merge and write all of a checkpoint; `folder` is replaced only when the new one is whole.

    The weights stand in shards of at most `shard_bytes` bytes, or of one tensor. Raises OutputError for a full disk
    (known before the first byte), missing permission, or a folder that is not ours, and what merging raises.
    """
    check_target(folder)
    folder = Path(os.path.realpath(folder))
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(folder.parent, plan.write_bytes)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write_files(plan, partial)
        _write_weights(plan, partial, shard_bytes, progress, device)
        _move_into_place(partial, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{folder}: the disk is full; {plan.write_bytes / 1e9:.1f} GB are needed") from None
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}; choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_space(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed + _MARGIN:
        raise OutputError(
            f"{parent}: {(needed + _MARGIN) / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; free some space or"
            " choose another disk"
        )


def _write_files(plan: Plan, folder: Path) -> None:
    """Everything but the weights."""
    # The owner's code last: config.json is the owner's, and it names that code.
    for path in (*companions(plan.donor.folder), *code(plan.donor.folder), *code(plan.owner.folder)):
        if path.name not in plan.files:
            shutil.copyfile(path, folder / path.name)
    for name, content in plan.files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")
    (folder / RECIPE_FILE).write_text(plan.recipe.to_yaml(), encoding="utf-8")
    (folder / "README.md").write_text(model_card(plan.recipe), encoding="utf-8")


def _nbytes(job: Job) -> int:
    return math.prod(job.shape) * job.dtype.itemsize


def _shards(plan: Plan, shard_bytes: float) -> list[tuple[Job, ...]]:
    shards: list[list[Job]] = [[]]
    size = 0
    for job in plan.jobs:
        if shards[-1] and size + _nbytes(job) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(job)
        size += _nbytes(job)
    return [tuple(shard) for shard in shards]


def _write_weights(plan: Plan, folder: Path, shard_bytes: float, progress: Progress | None, device: str) -> None:
    shards = _shards(plan, shard_bytes)
    done = 0
    places: dict[str, str] = {}
    for i, jobs in enumerate(shards):
        several = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        path = folder / (several if len(shards) > 1 else "model.safetensors")
        with path.open("wb") as file:
            file.write(_header(jobs))
            for data in _tensor_bytes(jobs, device):
                file.write(data)
                done += 1
                if progress is not None:
                    progress(done, len(plan.jobs))
            file.flush()
            os.fsync(file.fileno())
        places.update(dict.fromkeys((job.name for job in jobs), path.name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": plan.write_bytes}, "weight_map": dict(sorted(places.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(jobs: tuple[Job, ...]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for job in jobs:
        begin, end = end, end + _nbytes(job)
        header[job.name] = {
            "dtype": DTYPE_NAMES[job.dtype],
            "shape": list(job.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligned tensors can be mapped
    return len(text).to_bytes(8, "little") + text


def _tensor_bytes(jobs: tuple[Job, ...], device: str) -> Iterator[memoryview]:
    for job in jobs:
        merged = run(job, device)
        # A sum is finite only if every term is, and costs one pass; float64 has room for any sum of finite terms.
        if merged.is_floating_point() and not torch.isfinite(merged.sum(dtype=torch.float64)):
            raise CheckpointError(
                f"{job.name}: has NaN or infinite weights after the merge; see that its models have none and that"
                " weights are not huge"
            )
        flat = merged.cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _move_into_place(partial: Path, folder: Path) -> None:
    """Rename; an earlier checkpoint is set aside first, and back if the rename fails."""
    if not folder.exists():
        partial.rename(folder)
        return
    aside = folder.parent / f".{folder.name}.replaced-{os.getpid()}"
    folder.rename(aside)
    try:
        partial.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
