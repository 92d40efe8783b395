"""A model to be scored by hand: a checkpoint, one with an adapter, or a recipe that is merged in memory.

A recipe whose result has tokens or a chat template of its own, or that takes several merges, is written to a temporary
folder and loaded from there, since its tokenizer stands nowhere else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.companions import companions
from engine.errors import EngineError
from engine.lookup import lookup
from engine.methods import METHODS
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.reference import HUB_ID, parse_reference
from engine.stages import Stage, merge_stages
from evolve.by_hand.merging import read_recipes
from evolve.errors import EvolveError, ModelError
from evolve.preparation.setting import DTYPES
from evolve.scratch import scratch
from evolve.workers.resident import Resident, load_module
from evolve.workers.tokenizer import load_tokenizer

RECIPES = (".yaml", ".yml")
NOT_TOKENIZER = ("generation_config", "preprocessor_config", "processor_config", "video_preprocessor_config")


@dataclass(frozen=True)
class Subject:
    """A model whose headers are read. `checkpoint` is what it is, or the model whose config and tokenizer it takes;
    `plan` makes its weights, where they are no checkpoint's as they stand."""

    reference: str
    checkpoint: Checkpoint
    plan: Plan | None
    dtype: str  # to be scored in

    @property
    def tokenizer_digest(self) -> str:
        """Of the tokenizer's files, its chat template among them."""
        digest = hashlib.sha256()
        for path in companions(self.checkpoint.folder):
            if path.stem not in NOT_TOKENIZER:
                digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()

    def tokenizer(self, trust_remote_code: bool = False) -> Any:
        """Raises ModelError where there is none."""
        return load_tokenizer(self.checkpoint.folder, trust_remote_code)

    def load(self, device: str, trust_remote_code: bool = False) -> torch.nn.Module:
        """The module with its weights. Raises ModelError, and what merging raises."""
        how: Any = {"dtype": DTYPES[self.dtype], "device": device, "trust_remote_code": trust_remote_code}
        if self.plan is None:
            return load_module(self.checkpoint.folder, **how)
        return Resident(self.checkpoint, **how).merged(self.plan)


def is_recipe(reference: str) -> bool:
    return Path(reference).suffix.lower() in RECIPES and not Path(reference).is_dir()


def problem_of(reference: str) -> str | None:
    """What is wrong with a reference, as far as that is seen without opening a model."""
    names: Sequence[str] = (reference,)
    try:
        if is_recipe(reference):
            stages = read_recipes(Path(reference))
            for stage in stages:
                lookup(METHODS, stage.recipe.merge_method, "merge method")
            names = [name for stage in stages for name in stage.recipe.references]
        parts = [part for name in names for part in locations(name)]
    except (EngineError, EvolveError) as error:
        return str(error)
    gone = [part for part in parts if not HUB_ID.match(part) and not Path(part).expanduser().exists()]
    return f"{gone[0]}: there is no such folder" if gone else None


def locations(name: str) -> list[str]:
    """Folders or Hub ids of a model and its adapter."""
    reference = parse_reference(name)
    return [part.name for part in (reference.model, reference.adapter) if part is not None]


@contextmanager
def opened(reference: str, dtype: str | None, device: str = "cpu") -> Iterator[Subject]:
    """The model that `reference` names, to be scored in `dtype`, or in the one that it is stored in.

    What had to be written for it is gone at the end. Raises EngineError, ConfigError and ModelError.
    """
    if not is_recipe(reference):
        yield _checkpoint(reference, open_checkpoint(reference), dtype)
        return
    stages = read_recipes(Path(reference))
    for stage in stages:  # before any model is downloaded
        lookup(METHODS, stage.recipe.merge_method, "merge method")
    made = _planned(stages[0].recipe) if len(stages) == 1 else None
    if made is not None and not made.files:
        yield Subject(reference, made.donor, made, dtype or _stored(reference, _sizes_of(made)))
        return
    with scratch() as folder:
        yield _checkpoint(reference, _written(stages, folder / "merged", device), dtype)


def _checkpoint(reference: str, checkpoint: Checkpoint, dtype: str | None) -> Subject:
    sizes = ((tensor.dtype, tensor.nbytes) for tensor in checkpoint.tensors.values())
    chosen = dtype or _stored(reference, sizes)
    if checkpoint.adapter is None:
        return Subject(reference, checkpoint, None, chosen)
    # The sums are float32; they are rounded once, to what the model is scored in.
    recipe = {"merge_method": "passthrough", "models": [{"model": reference}], "out_dtype": chosen}
    return Subject(reference, checkpoint, _planned(Recipe.model_validate(recipe), checkpoint), chosen)


def _planned(recipe: Recipe, *known: Checkpoint) -> Plan:
    there = {checkpoint.reference: checkpoint for checkpoint in known}
    return plan(recipe, {name: there.get(name) or open_checkpoint(name) for name in recipe.references})


def _written(stages: Sequence[Stage], folder: Path, device: str) -> Checkpoint:
    merge_stages(stages, folder, device=device, model_card=False)
    return open_checkpoint(str(folder))


def _sizes_of(made: Plan) -> Iterator[tuple[torch.dtype, int]]:
    return ((job.dtype, math.prod(job.shape) * job.dtype.itemsize) for job in made.jobs)


def _stored(reference: str, sizes: Iterable[tuple[torch.dtype, int]]) -> str:
    """The dtype of most bytes. Raises ModelError where models cannot compute in it."""
    bytes_of: dict[str, int] = {}
    for dtype, size in sizes:
        name = str(dtype).removeprefix("torch.")
        bytes_of[name] = bytes_of.get(name, 0) + size
    name = max(bytes_of, key=lambda each: bytes_of[each])
    if name not in DTYPES:
        raise ModelError(f"{reference}: is stored in {name}; give --dtype {', '.join(DTYPES)}")
    return name


def labels(references: Sequence[str]) -> list[str]:
    """Short names for a table: of each path as many of its last parts as tell it from all others."""
    parts = [PurePath(reference).parts or (reference,) for reference in references]
    counts = [1] * len(parts)
    while True:
        short = ["/".join(each[-count:]) for each, count in zip(parts, counts, strict=True)]
        longer = [
            count + (short.count(name) > 1 and count < len(each))
            for each, count, name in zip(parts, counts, short, strict=True)
        ]
        if longer == counts:
            return short
        counts = longer
