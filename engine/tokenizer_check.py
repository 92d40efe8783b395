"""What must hold of a tokenizer.json before vocabularies are made of it."""

from __future__ import annotations

import re
from typing import Any

_MOST_IDS = 1 << 24
_HALF_LETTER = re.compile(rb"\\u[dD][89a-fA-F]")


def check_tokenizer(content: Any, text: bytes) -> None:
    """Raise ValueError where the parsed file `text` is not as the tokenizers library writes it."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError("it has no model")
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(map(_is_added, added)):
        raise ValueError("its added_tokens are not {id, content, ...}")
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, dict):
        good = all(map(_is_id, vocabulary.values()))
    else:
        good = isinstance(vocabulary, list) and all(map(_is_scored, vocabulary))
    if not good:
        raise ValueError("its vocab does not give each token an id, or a score")
    if not vocabulary and not added:
        raise ValueError("it has no tokens")
    merges = content["model"].get("merges")
    if merges is not None and not (isinstance(merges, list) and all(map(_is_merge, merges))):
        raise ValueError("its merges are not pairs")
    if _HALF_LETTER.search(text):
        # Two halves, escaped one after the other, are a letter; one alone cannot be written again.
        for token in (*vocabulary, *(entry["content"] for entry in added)):
            (token if isinstance(token, str) else token[0]).encode()


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_IDS


def _is_added(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("content"), str) and _is_id(entry.get("id"))


def _is_scored(entry: Any) -> bool:
    return (
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], (int, float))
    )


def _is_merge(merge: Any) -> bool:
    if isinstance(merge, str):
        return merge.count(" ") == 1
    return isinstance(merge, list) and len(merge) == 2 and isinstance(merge[0], str) and isinstance(merge[1], str)
