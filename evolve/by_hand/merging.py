"""`evolve merge`: one recipe, one checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from engine.checkpoint import open_checkpoint
from engine.lookup import lookup
from engine.methods import METHODS
from engine.plan import plan
from engine.room import in_units
from engine.stages import Stage, merge_stages, read_stages, stage_folder
from engine.target import check_target
from engine.write import SHARD_BYTES, merge_to_folder
from evolve.by_hand.merge_options import MergeOptions, merge_options
from evolve.by_hand.merge_plan import describe
from evolve.by_hand.merge_progress import merge_progress
from evolve.environment import usable_memory
from evolve.errors import ConfigError


def merge(path: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Merge the recipe at `path`, or the recipes that lead to one, into the folder `out`.

    `given` are the options of the command line by their names.
    """
    options = merge_options(given)
    stages = overridden(read_recipes(path), options)
    for stage in stages:  # before any model is downloaded
        lookup(METHODS, stage.recipe.merge_method, "merge method")
    device = usable_device(options.device)
    target = check_target(out)
    if options.download_cache is not None:
        os.environ["HF_HUB_CACHE"] = str(options.download_cache)  # read when the client is imported
    how = Keywords(
        any_architecture=options.any_architecture,
        shard_bytes=options.shard_bytes or SHARD_BYTES,
        device=device,
        memory=memory_of(device),
        copy_tokenizer=options.copy_tokenizer,
        model_card=options.model_card,
    )
    if options.dry_run or options.verbose:
        for stage in stages:
            show(stage, out if stage is stages[-1] else stage_folder(target, stage.name or ""), how)
    if options.dry_run:
        return
    with merge_progress(not options.quiet) as progress:
        if len(stages) == 1:
            planned = merge_to_folder(stages[0].recipe, out, progress=progress, **how)
        else:
            planned = merge_stages(stages, out, progress=progress, **how)
    if not options.quiet:
        print(f"wrote {out}: {len(planned.jobs)} tensors, {in_units(planned.write_bytes)}")


class Keywords(TypedDict):
    """How to merge and write; see `engine.write.write_checkpoint`."""

    any_architecture: bool
    shard_bytes: float
    device: str
    memory: int
    copy_tokenizer: bool
    model_card: bool


def show(stage: Stage, folder: Path, how: Keywords) -> None:
    """Print a stage's plan. Raises what is wrong with it, as far as that can be known before other stages."""
    if stage.name is not None:
        print(f"name      {stage.name}")
    if stage.uses:
        print(f"takes     {', '.join(stage.uses)}; the rest is planned when there is that result")
        return
    opened = {reference: open_checkpoint(reference) for reference in stage.recipe.references}
    planned = plan(stage.recipe, opened, any_architecture=how["any_architecture"])
    for line in describe(planned, opened, folder, how["shard_bytes"], how["device"], how["memory"]):
        print(line, flush=True)


def read_recipes(path: Path) -> tuple[Stage, ...]:
    """Raises ConfigError where there is no such file, RecipeError for what stands in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a recipe in YAML") from None
    return read_stages(text, where=str(path))


def overridden(stages: tuple[Stage, ...], options: MergeOptions) -> tuple[Stage, ...]:
    """The recipes with what the command line says otherwise, which is what is recorded beside the weights.

    A seed holds for all of them, a dtype for the last one, whose weights are written.
    """
    changed = []
    for stage in stages:
        update: dict[str, Any] = {} if options.seed is None else {"seed": options.seed}
        if options.dtype is not None and stage is stages[-1]:
            update["out_dtype"] = options.dtype
        changed.append(replace(stage, recipe=stage.recipe.model_copy(update=update)))
    return tuple(changed)


def usable_device(name: str) -> str:
    """Return the device, chosen if it is "auto". Raises ConfigError unless tensors can be put on it here."""
    import torch

    device = name
    if name == "auto":
        device = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), "cpu")
    try:
        usable = torch.zeros(1, device=device).cpu().item() == 0
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        raise ConfigError(
            f"--device ({device}): cannot be used here ({' '.join(str(error).split())[:200]}); give cpu, or cuda where "
            "there is a GPU"
        ) from None
    if not usable:
        raise ConfigError(f"--device ({device}): loses what is put there; give cpu, or cuda where there is a GPU")
    return device


def memory_of(device: str) -> int:
    """Bytes that a merge may take on a device."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return usable_memory()
