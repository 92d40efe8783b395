"""The files beside a model's weights: its tokenizer, its generation settings, and its own code where it has any."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import CheckpointError
from engine.json_file import read_object

NAMES = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_MAPS = ("config.json", "tokenizer_config.json")


def companions(folder: Path) -> list[Path]:
    """Return the files there are, config.json aside, in a fixed order; nothing below the folder."""
    return [path for name in NAMES if os.path.lexists(path := folder / name)]


def code(folder: Path) -> list[Path]:
    """Return the Python files of a model whose `auto_map` points to code of its own, sorted; else none.

    All of them, as the modules that `auto_map` names import others. They are copied, never run.
    """
    return sorted(folder.glob("*.py")) if any(_has_auto_map(folder / name) for name in _MAPS) else []


def _has_auto_map(path: Path) -> bool:
    try:
        return bool(read_object(path, str(path.parent)).get("auto_map"))
    except CheckpointError:
        return False  # absent, or no JSON: whoever needs the file says so
