"""Vocabularies that differ: each model's embedding and head are rebuilt for the output's tokens, row by row.

While planning, a row program is made for each model: an output row is the model's own row of that token, or, where
the model lacks the token: what the recipe's `tokenizer.tokens` says; else the only other model's row; else the
base's row; else the mean of the rows there are; else zeros. A token whose id lies beyond a model's embedding is a
token that this model lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from engine.architecture import embedding_name, head_name, split_layer
from engine.blocks import Block
from engine.checkpoint import Checkpoint
from engine.entries import TokenizerEntry, ZeroRow
from engine.errors import CheckpointError, RecipeError
from engine.job import Rows
from engine.layout import layout
from engine.recipe import Recipe
from engine.shard import TensorInfo
from engine.slots import stored_name
from engine.tokenizer import extend_tokenizer, read_vocabulary

_BIASED = ("head", "predictions", "embed_out")
_Part = tuple[int, torch.Tensor, torch.Tensor, "torch.Tensor | None"]  # model, target, source, weight
_Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The output's vocabulary of `size` rows, those from `filled` on padding, and each model's row program.

    `files`: see Plan.
    """

    size: int
    filled: int
    files: Mapping[str, bytes | None]
    models: tuple[Checkpoint, ...]
    programs: tuple[tuple[_Part, ...], ...]

    def rows(self, checkpoint: Checkpoint, role: str, head: str | None) -> tuple[Rows, ...] | None:
        """Return how to put together a model's embedding or head; None for tensors without a row per token."""
        if role not in (head, layout(checkpoint).embedding) and not _is_by_token(checkpoint, role):
            return None
        return tuple(
            Rows(self.models[m], stored_name(self.models[m], role, head), target, source, weight)
            for m, target, source, weight in self.programs[self.models.index(checkpoint)]
        )


def _is_by_token(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor besides embedding and head has a row per token: a head's bias, an encoder's own embedding."""
    info, embedding = checkpoint.tensors.get(name), layout(checkpoint).embedding
    if info is None or embedding is None or split_layer(name) is not None:
        return False
    if info.shape[:1] != checkpoint.tensors[embedding].shape[:1]:
        return False
    if len(info.shape) == 1:
        return name.endswith(".bias") and any(part in name for part in _BIASED)
    return embedding_name([name]) is not None or head_name([name]) is not None


def tokenizer_donor(
    recipe: Recipe, blocks: Sequence[Block], checkpoints: Mapping[str, Checkpoint]
) -> Checkpoint | None:
    """Return the model whose tokenizer the recipe asks for, a union's first one; None where it asks for none."""
    if recipe.vocabulary is None:
        return None
    if recipe.vocabulary.source not in ("base", "union"):
        return checkpoints[recipe.vocabulary.source]
    return checkpoints[recipe.base_model] if recipe.base_model else blocks[0].members[0].checkpoint


def plan_vocabulary(
    recipe: Recipe, blocks: Sequence[Block], checkpoints: Mapping[str, Checkpoint]
) -> Vocabulary | None:
    """Return the vocabulary that the recipe asks for; None where it asks for none, or all models share it already.

    Raises CheckpointError for models without a tokenizer.json, RecipeError for rows that no model has.
    """
    donor = tokenizer_donor(recipe, blocks, checkpoints)
    entry = recipe.vocabulary
    if donor is None or entry is None:
        return None
    members = [m.checkpoint for block in blocks for m in block.members]
    base = checkpoints[recipe.base_model] if recipe.base_model else None
    named = [checkpoints[name] for name in entry.references()]
    models = tuple(dict.fromkeys([*([base] if base else []), *members, donor, *named]))
    names = {name: models.index(c) for name, c in checkpoints.items() if c in models}
    if base is not None:
        names["base"] = models.index(base)
    return _plan(_Ask(entry, entry.model_dump_json()), donor, base, models, tuple(names.items()))


@dataclass(frozen=True)
class _Ask:
    """The recipe's section, hashable by its text."""

    entry: TokenizerEntry
    text: str

    def __hash__(self) -> int:
        return hash(self.text)


@lru_cache(maxsize=8)  # a search plans hundreds of recipes over the same models
def _plan(
    ask: _Ask,
    donor: Checkpoint,
    base: Checkpoint | None,
    models: tuple[Checkpoint, ...],
    names: tuple[tuple[str, int], ...],
) -> Vocabulary | None:
    entry = ask.entry
    tokens = [read_vocabulary(model.folder, model.reference) for model in models]
    counts = [_embedding(model).shape[0] for model in models]
    for model in models[1:]:
        if _embedding(model).shape[1:] != _embedding(models[0]).shape[1:]:
            raise CheckpointError(
                f"{model.reference}: its embedding has shape {_embedding(model).shape}, {models[0].reference} has"
                f" {_embedding(models[0]).shape}; only fine-tunes of one architecture can be merged"
            )
    own = tokens[models.index(donor)]
    shared = all(ids is own or ids == own for ids in tokens) and len(set(counts)) == 1
    if shared and not entry.tokens and not entry.pad_to_multiple_of:
        return None
    others = [model.folder for model in models if model is not donor] if entry.source == "union" else []
    output, files = extend_tokenizer(donor.folder, others, list(entry.tokens or ()), donor.reference)
    if len(by_row := {row: token for token, row in output.items()}) < len(output):
        output = {token: row for row, token in by_row.items()}  # of several names for one row, the last
    has = _rows_of(output, tokens, counts)
    set_rows = _set_rows(entry, output, tokens, counts, dict(names))
    target = np.fromiter(output.values(), dtype=np.int64, count=len(output))
    programs = tuple(
        _program(m, target, has, models.index(base) if base is not None else None, set_rows) for m in range(len(models))
    )
    filled = int(target.max()) + 1
    multiple = entry.pad_to_multiple_of or 1
    return Vocabulary(-(-filled // multiple) * multiple, filled, files, models, programs)


def _embedding(model: Checkpoint) -> TensorInfo:
    name = layout(model).embedding
    if name is None:
        raise CheckpointError(
            f"{model.reference}: has no token embedding that we know; remove tokenizer_source and tokenizer"
        )
    return model.tensors[name]


def _rows_of(output: Mapping[str, int], tokens: Sequence[Mapping[str, int]], counts: Sequence[int]) -> _Ids:
    """Return (k models, tokens of the output): each model's row of each token, -1 where it has none."""
    rows = np.empty((len(tokens), len(output)), dtype=np.int64)
    done: dict[int, int] = {}
    for m, ids in enumerate(tokens):
        if (twin := done.setdefault(id(ids), m)) != m:
            rows[m] = rows[twin]
        else:
            rows[m] = np.fromiter((ids.get(token, -1) for token in output), dtype=np.int64, count=len(output))
    rows[rows >= np.array(counts)[:, None]] = -1
    return rows


@dataclass(frozen=True)
class _SetRow:
    """What the recipe says of one token: a row of a model, zeros where `model` is None."""

    column: int  # in the output's order of tokens
    model: int | None
    row: int
    force: bool


def _set_rows(
    entry: TokenizerEntry,
    output: Mapping[str, int],
    tokens: Sequence[Mapping[str, int]],
    counts: Sequence[int],
    names: Mapping[str, int],
) -> list[_SetRow]:
    columns = {token: i for i, token in enumerate(output)} if entry.tokens else {}
    found: list[_SetRow] = []
    for token, how in (entry.tokens or {}).items():
        if how.source is None or token not in columns:
            continue
        if isinstance(how.source, ZeroRow):
            found.append(_SetRow(columns[token], None, 0, how.force))
            continue
        model = how.source if isinstance(how.source, str) else how.source.model
        wanted = token if isinstance(how.source, str) else how.source.token
        if model not in names:
            raise RecipeError(f"tokenizer.tokens.{token}: its source is {model}, and there is no base_model; name one")
        m = names[model]
        row = tokens[m].get(wanted, -1) if wanted is not None else how.source.token_id  # type: ignore[union-attr]
        if row is None or not 0 <= row < counts[m]:
            what = f"token {wanted!r}" if wanted is not None else f"row {row} (it has {counts[m]})"
            raise RecipeError(f"tokenizer.tokens.{token}: {model} has no {what}; name another source")
        found.append(_SetRow(columns[token], m, row, how.force))
    return found


def _program(m: int, target: _Ids, has: _Ids, base: int | None, set_rows: Sequence[_SetRow]) -> tuple[_Part, ...]:
    """Return the parts of model m's tensor: (model, target rows, source rows, weights)."""
    own = has[m] >= 0
    holder = np.where(own, m, -1)  # whose row each token takes; -1 for none or for a mean
    row = has[m].copy()
    lacking = ~own
    for item in set_rows:
        if item.force or not own[item.column]:
            holder[item.column] = -1 if item.model is None else item.model
            row[item.column] = item.row
            lacking[item.column] = False
    holders = (has >= 0).sum(axis=0)
    only = lacking & (holders == 1)
    if base is not None:
        only |= lacking & (has[base] >= 0)
    columns = np.flatnonzero(only)
    first = (has[:, columns] >= 0).argmax(axis=0)
    if base is not None:
        first = np.where(has[base][columns] >= 0, base, first)
    holder[columns], row[columns] = first, has[first, columns]
    parts: list[_Part] = []
    for n in range(len(has)):
        if len(columns := np.flatnonzero(holder == n)):
            parts.append((n, torch.from_numpy(target[columns]), torch.from_numpy(row[columns]), None))
        if len(columns := np.flatnonzero(lacking & ~only & (has[n] >= 0))):
            weight = torch.from_numpy(1.0 / holders[columns])
            parts.append((n, torch.from_numpy(target[columns]), torch.from_numpy(has[n][columns]), weight))
    return tuple(parts)
