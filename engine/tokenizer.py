"""Vocabularies of tokenizer.json files (huggingface.co/docs/tokenizers), read and united."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError

# Files from which a slow tokenizer would be built, without the new tokens.
_STALE = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "tokenizer.model", "spiece.model")


def _read(folder: Path, where: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        _plain(content)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{where}: no usable tokenizer.json ({error}), which tokenizer_source needs; save a fast tokenizer there"
        ) from None
    return content


def _plain(content: dict[str, Any]) -> dict[str, int]:
    """The model's own tokens; a Unigram model lists [token, score] in the order of ids."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):
        return {str(token): i for i, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def _added(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {token["content"]: token for token in content.get("added_tokens") or []}


def read_vocabulary(folder: Path, where: str) -> dict[str, int]:
    """Return token -> id, added tokens included. Raises CheckpointError without a tokenizer.json."""
    content = _read(folder, where)
    return _plain(content) | {token: int(entry["id"]) for token, entry in _added(content).items()}


def union_tokenizer(
    first: Path, others: Sequence[Path], where: str
) -> tuple[dict[str, int], Mapping[str, bytes | None]]:
    """Return the vocabulary of the first tokenizer with the tokens of the others added behind, and its files.

    Ids of the first tokenizer stay. Plain tokens become plain tokens (with the merges that yield them, for BPE),
    added tokens become added tokens with the settings of the first model that has them.
    """
    content = _read(first, where)
    ids = read_vocabulary(first, where)
    free = max(ids.values())
    for folder in others:
        other = _read(folder, str(folder))
        added = _added(other)
        for token in sorted(_plain(other).items(), key=lambda item: item[1]):
            if token[0] not in ids and token[0] not in added:
                ids[token[0]] = (free := free + 1)
                _add_plain(content, other, token, ids[token[0]])
        for name, entry in sorted(added.items(), key=lambda item: int(item[1]["id"])):
            if name not in ids:
                ids[name] = (free := free + 1)
                content.setdefault("added_tokens", []).append(entry | {"id": ids[name]})
        _add_merges(content, other, ids)
    text = json.dumps(content, ensure_ascii=False, indent=2).encode()
    return ids, {"tokenizer.json": text, **dict.fromkeys(_STALE)}


def _add_plain(content: dict[str, Any], other: dict[str, Any], token: tuple[str, int], number: int) -> None:
    vocabulary, theirs = content["model"]["vocab"], other["model"]["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary[token[0]] = number
        return
    score = theirs[token[1]][1] if isinstance(theirs, list) else min(score for _, score in vocabulary)
    if len(vocabulary) != number:  # added tokens stand behind a Unigram's own: there is no free id before them
        content.setdefault("added_tokens", []).append(_plain_added(token[0], number))
    else:
        vocabulary.append([token[0], score])


def _plain_added(name: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": name, **flags}


def _add_merges(content: dict[str, Any], other: dict[str, Any], ids: Mapping[str, int]) -> None:
    merges, theirs = content["model"].get("merges"), other["model"].get("merges")
    if merges is None or theirs is None:
        return
    have = {_pair(merge) for merge in merges}
    as_text = bool(merges) and isinstance(merges[0], str)
    for merge in theirs:
        pair = _pair(merge)
        if pair not in have and pair[0] in ids and pair[1] in ids and "".join(pair) in ids:
            merges.append(" ".join(pair) if as_text else list(pair))


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
