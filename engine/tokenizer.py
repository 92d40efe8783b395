"""Vocabularies of tokenizer.json files (huggingface.co/docs/tokenizers): read, united, and given new tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.tokenizer_check import check_tokenizer

# Files from which a slow tokenizer would be built, without the new tokens.
_STALE = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "tokenizer.model", "spiece.model")


def _load(folder: Path, where: str) -> bytes:
    try:
        return (folder / "tokenizer.json").read_bytes()
    except OSError as error:
        raise _unusable(where, error) from None


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(text)
        check_tokenizer(content, text)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _unusable(where, error) from None
    return content


def _unusable(where: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{where}: no usable tokenizer.json ({error}), which a recipe with tokenizer_source or tokenizer needs; save a"
        " fast tokenizer there"
    )


def _plain(content: dict[str, Any]) -> dict[str, int]:
    """The model's own tokens; a Unigram model lists [token, score] in the order of ids."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):
        return {str(token): i for i, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def _added(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {token["content"]: token for token in content.get("added_tokens") or []}


def _added_list(content: dict[str, Any]) -> list[dict[str, Any]]:
    content["added_tokens"] = content.get("added_tokens") or []
    added: list[dict[str, Any]] = content["added_tokens"]
    return added


def _ids(content: dict[str, Any]) -> dict[str, int]:
    return _plain(content) | {token: entry["id"] for token, entry in _added(content).items()}


class _Text:
    """A tokenizer.json that hashes by its content, so that fine-tunes with one tokenizer are parsed once."""

    def __init__(self, text: bytes, where: str) -> None:
        self.text, self.where = text, where
        self.digest = hashlib.sha256(text).digest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text) and self.digest == other.digest


@lru_cache(maxsize=8)
def _parsed_ids(text: _Text) -> Mapping[str, int]:
    return _ids(_parse(text.text, text.where))


def read_vocabulary(folder: Path, where: str) -> Mapping[str, int]:
    """Return token -> id, added tokens included. Raises CheckpointError without a usable tokenizer.json."""
    return _parsed_ids(_Text(_load(folder, where), where))


def extend_tokenizer(
    first: Path, others: Sequence[Path], new: Sequence[str], where: str
) -> tuple[Mapping[str, int], Mapping[str, bytes | None]]:
    """Return the vocabulary of the first tokenizer with those of the others and new tokens behind it, and its files.

    Ids of the first tokenizer stay. Plain tokens become plain tokens (with the merges that yield them, for BPE),
    added tokens become added tokens with the settings of the first model that has them; `new` tokens are added
    tokens that are not special. No files where nothing was added.
    """
    texts = [_load(folder, str(folder)) for folder in others]
    own = _load(first, where)
    distinct = [text for text in dict.fromkeys(texts) if text != own]
    if not distinct and not new:
        return read_vocabulary(first, where), {}
    content = _parse(own, where)
    ids = _ids(content)
    before = len(ids)
    for folder, text in zip(others, texts, strict=True):
        if text in distinct:
            distinct.remove(text)
            try:
                _unite(content, _parse(text, str(folder)), ids)
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # merges or scores of a broken one
                raise _unusable(f"{where} or {folder}", error) from None
    _add(content, [_flags(token) for token in new], ids)
    if len(ids) == before:
        return ids, {}
    try:  # compact: indentation would take json's slow path, seconds for a large vocabulary
        made = json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half a letter elsewhere than in a token
        raise _unusable(where, error) from None
    return ids, {"tokenizer.json": made, **dict.fromkeys(_STALE)}


def _unite(content: dict[str, Any], other: dict[str, Any], ids: dict[str, int]) -> None:
    added = _added(other)
    free = max(ids.values(), default=-1)
    for token in sorted(_plain(other).items(), key=lambda item: item[1]):
        if token[0] not in ids and token[0] not in added:
            ids[token[0]] = (free := free + 1)
            _add_plain(content, other, token, ids[token[0]])
    _add(content, sorted(added.values(), key=lambda entry: int(entry["id"])), ids)
    _add_merges(content, other, ids)


def _add(content: dict[str, Any], entries: Sequence[dict[str, Any]], ids: dict[str, int]) -> None:
    """Add those added tokens that are not there, behind all others."""
    free = max(ids.values(), default=-1)
    for entry in entries:
        if entry["content"] not in ids:
            ids[entry["content"]] = (free := free + 1)
            _added_list(content).append({**entry, "id": free})


def _add_plain(content: dict[str, Any], other: dict[str, Any], token: tuple[str, int], number: int) -> None:
    vocabulary, theirs = content["model"]["vocab"], other["model"]["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary[token[0]] = number
        return
    score = theirs[token[1]][1] if isinstance(theirs, list) else min(score for _, score in vocabulary)
    if len(vocabulary) != number:  # added tokens stand behind a Unigram's own: there is no free id before them
        flags = _flags(token[0], normalized=False)
        _added_list(content).append({**flags, "id": number})
    else:
        vocabulary.append([token[0], score])


def _flags(name: str, *, normalized: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": -1, "content": name, **flags, "normalized": normalized, "special": False}


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
