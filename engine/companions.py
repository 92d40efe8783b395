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


def named_code(folder: Path) -> tuple[str, ...]:
    """Return what transformers would run of a model's own code, as `auto_map` names it: `mine.py (AutoConfig)`.

    Code of another repository stands with its name: `mine.py of org/code (AutoModelForCausalLM)`.
    """
    named: dict[str, list[str]] = {}
    for name in _MAPS:
        for purpose, classes in _auto_map(folder / name).items():
            for each in classes if isinstance(classes, list) else [classes]:
                if isinstance(each, str):
                    repository, _, place = each.rpartition("--")
                    file = place.rpartition(".")[0].replace(".", "/") + ".py" + f" of {repository}" * bool(repository)
                    named.setdefault(file, []).append(str(purpose))
    return tuple(f"{file} ({', '.join(dict.fromkeys(purposes))})" for file, purposes in sorted(named.items()))


def _has_auto_map(path: Path) -> bool:
    try:
        return bool(read_object(path, str(path.parent)).get("auto_map"))
    except CheckpointError:
        return False  # absent, or no JSON: whoever needs the file says so


def _auto_map(path: Path) -> dict[str, object]:
    try:
        found = read_object(path, str(path.parent)).get("auto_map")
    except CheckpointError:
        return {}
    return found if isinstance(found, dict) else {"code": found} if found else {}
