"""`evolve merge`: one recipe, one checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.checkpoint import open_checkpoint
from engine.lookup import lookup
from engine.methods import METHODS
from engine.plan import plan
from engine.recipe import Recipe
from engine.room import in_units
from engine.write import SHARD_BYTES, check_target, write_checkpoint
from evolve.environment import usable_memory
from evolve.errors import ConfigError
from evolve.merge_options import MergeOptions, merge_options
from evolve.merge_plan import describe
from evolve.merge_progress import merge_progress


def merge(path: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Merge the recipe at `path` into the folder `out`, by the options of the command line."""
    options = merge_options(given)
    recipe = overridden(read_recipe(path), options)
    lookup(METHODS, recipe.merge_method, "merge method")  # before any model is downloaded
    device = usable_device(options.device)
    check_target(out)
    if options.download_cache is not None:
        os.environ["HF_HUB_CACHE"] = str(options.download_cache)  # read when the client is imported
    opened = {reference: open_checkpoint(reference) for reference in recipe.references}
    planned = plan(recipe, opened, any_architecture=options.any_architecture)
    shard_bytes, memory = options.shard_bytes or SHARD_BYTES, memory_of(device)
    if options.dry_run or options.verbose:
        for line in describe(planned, opened, out, shard_bytes, device, memory):
            print(line, flush=True)
    if options.dry_run:
        return
    with merge_progress(not options.quiet) as progress:
        write_checkpoint(
            planned,
            out,
            shard_bytes=shard_bytes,
            device=device,
            memory=memory,
            copy_tokenizer=options.copy_tokenizer,
            model_card=options.model_card,
            progress=progress,
        )
    if not options.quiet:
        print(f"wrote {out}: {len(planned.jobs)} tensors, {in_units(planned.write_bytes)}")


def read_recipe(path: Path) -> Recipe:
    """Raises ConfigError where there is no such file, RecipeError for what stands in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a recipe in YAML") from None
    return Recipe.from_yaml(text, where=str(path))


def overridden(recipe: Recipe, options: MergeOptions) -> Recipe:
    """The recipe with what the command line says otherwise, which is what is recorded beside the weights."""
    changes = {"seed": options.seed, "out_dtype": options.dtype}
    return recipe.model_copy(update={key: value for key, value in changes.items() if value is not None})


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
