"""`evolve merge`: one recipe, one checkpoint."""

from __future__ import annotations

from pathlib import Path

from engine.lookup import lookup
from engine.methods import METHODS
from engine.recipe import Recipe
from engine.write import merge_to_folder
from evolve.errors import ConfigError
from evolve.progress import ProgressLog


def merge(path: Path, out: Path, device: str, seed: int | None) -> None:
    """Merge the recipe at `path` into the folder `out`."""
    check_device(device)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a recipe in YAML") from None
    recipe = Recipe.from_yaml(text, where=str(path))
    lookup(METHODS, recipe.merge_method, "merge method")  # before any model is downloaded
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    with ProgressLog() as log:
        plan = merge_to_folder(recipe, out, device=device, progress=log.tensors)
    print(f"wrote {out}: {len(plan.jobs)} tensors, {plan.write_bytes / 2**20:.1f} MiB")


def check_device(device: str) -> None:
    """Raises ConfigError unless tensors can be put on `device` here."""
    import torch

    try:
        usable = torch.zeros(1, device=device).cpu().item() == 0
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        raise ConfigError(
            f"--device ({device}): cannot be used here ({' '.join(str(error).split())[:200]}); give cpu, or cuda where "
            "there is a GPU"
        ) from None
    if not usable:
        raise ConfigError(f"--device ({device}): loses what is put there; give cpu, or cuda where there is a GPU")
