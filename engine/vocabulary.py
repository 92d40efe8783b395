"""Vocabularies that differ (tokenizer_source): each model's embedding is rebuilt for one vocabulary, row by row.

While planning, a row program is made for each model: an output row is the model's own row of that token, or, where
the model lacks the token: the only other model's row; else the base's row; else the mean of the rows there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from engine.architecture import embedding_name
from engine.blocks import Block, stored_name
from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError
from engine.job import Rows
from engine.recipe import Recipe
from engine.shard import TensorInfo
from engine.tokenizer import read_vocabulary, union_tokenizer

_Part = tuple[int, torch.Tensor, torch.Tensor, "torch.Tensor | None"]  # model, target, source, weight


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The output's vocabulary of `size` rows, and each model's row program. `files`: see Plan."""

    size: int
    files: Mapping[str, bytes | None]
    models: tuple[Checkpoint, ...]
    programs: tuple[tuple[_Part, ...], ...]

    def rows(self, checkpoint: Checkpoint, role: str, head: str | None) -> tuple[Rows, ...] | None:
        """Return how to put together a model's embedding or head; None for tensors without a row per token."""
        bias = head.removesuffix("weight") + "bias" if head else None
        if role not in (head, bias, embedding_name(checkpoint.tensors)):
            return None
        return tuple(
            Rows(self.models[m], stored_name(self.models[m], role, head), target, source, weight)
            for m, target, source, weight in self.programs[self.models.index(checkpoint)]
        )


def tokenizer_donor(
    recipe: Recipe, blocks: Sequence[Block], checkpoints: Mapping[str, Checkpoint]
) -> Checkpoint | None:
    """Return the model whose tokenizer the recipe asks for, a union's first one; None where it asks for none."""
    wanted = recipe.tokenizer_source
    if wanted is None:
        return None
    if wanted not in ("base", "union"):
        return checkpoints[wanted]
    return checkpoints[recipe.base_model] if recipe.base_model else blocks[0].members[0].checkpoint


def plan_vocabulary(
    recipe: Recipe, blocks: Sequence[Block], checkpoints: Mapping[str, Checkpoint]
) -> Vocabulary | None:
    """Return the vocabulary that the recipe asks for; None where it asks for none, or all models share it already.

    Raises CheckpointError for models without a tokenizer.json.
    """
    donor = tokenizer_donor(recipe, blocks, checkpoints)
    if donor is None:
        return None
    members = [m.checkpoint for block in blocks for m in block.members]
    base = checkpoints[recipe.base_model] if recipe.base_model else None
    models = tuple(dict.fromkeys([*([base] if base else []), *members, donor]))
    return _plan(recipe.tokenizer_source == "union", donor, base, models)


@lru_cache(maxsize=8)  # a search plans hundreds of recipes over the same models
def _plan(union: bool, donor: Checkpoint, base: Checkpoint | None, models: tuple[Checkpoint, ...]) -> Vocabulary | None:
    tokens = [read_vocabulary(model.folder, model.reference) for model in models]
    counts = [_embedding(model).shape[0] for model in models]
    for model in models[1:]:
        if _embedding(model).shape[1:] != _embedding(models[0]).shape[1:]:
            raise CheckpointError(
                f"{model.reference}: its embedding has shape {_embedding(model).shape}, {models[0].reference} has"
                f" {_embedding(models[0]).shape}; only fine-tunes of one architecture can be merged"
            )
    own = tokens[models.index(donor)]
    if all(ids == own for ids in tokens) and len(set(counts)) == 1:
        return None
    files: Mapping[str, bytes | None] = {}
    output = own
    if union:
        others = [model.folder for model in models if model is not donor]
        output, files = union_tokenizer(donor.folder, others, donor.reference)
    has = [{t: i for t, i in ids.items() if i < n} for ids, n in zip(tokens, counts, strict=True)]
    fallback = models.index(base) if base is not None else None
    programs = tuple(_program(m, output, has, fallback) for m in range(len(models)))
    return Vocabulary(max(output.values()) + 1, files, models, programs)


def _embedding(model: Checkpoint) -> TensorInfo:
    name = embedding_name(model.tensors)
    if name is None:
        raise CheckpointError(f"{model.reference}: has no token embedding that we know; remove tokenizer_source")
    return model.tensors[name]


def _program(
    m: int, output: Mapping[str, int], has: Sequence[Mapping[str, int]], base: int | None
) -> tuple[_Part, ...]:
    """Return the parts of model m's tensor: (model, target rows, source rows, weights)."""
    parts: dict[tuple[int, bool], list[tuple[int, int, float]]] = {}
    for token, row in output.items():
        holders = [m] if token in has[m] else [n for n, ids in enumerate(has) if token in ids]
        if base is not None and len(holders) > 1 and base in holders:
            holders = [base]
        for n in holders:
            parts.setdefault((n, len(holders) > 1), []).append((row, has[n][token], 1.0 / len(holders)))
    return tuple(_part(n, mean, entries) for (n, mean), entries in sorted(parts.items()))


def _part(n: int, mean: bool, entries: list[tuple[int, int, float]]) -> _Part:
    target, source, weight = zip(*entries, strict=True)
    return (
        n,
        torch.tensor(target),
        torch.tensor(source),
        torch.tensor(weight, dtype=torch.float64) if mean else None,
    )
