"""config.json of a model: read, and checked as far as merging depends on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.json_file import read_object

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "vocab_size", "hidden_size")
_LARGEST = 1 << 31
_REPEATED = re.compile(r"(layers?|blocks?|depth|experts?)$")
"""Keys that count modules. Each is built, by a loop, before a shape can show that there are not so many."""
_MOST_MODULES = 10_000
_IMPLEMENTATION = re.compile(r"_?(attn|experts|mlp|kernels?)_(implementation|config|mapping)|kernels?")
"""Keys by which transformers loads compiled code from a repository of the Hub, where `kernels` is installed."""


def read_config(reference: str, folder: Path) -> dict[str, Any]:
    """Return a model's configuration. Raises CheckpointError: missing, malformed, of quantised weights."""
    path = folder / "config.json"
    if not path.exists():
        if (folder / "adapter_config.json").is_file():
            raise CheckpointError(f"{reference}: is an adapter, not a model; write BASE+{reference}")
        raise CheckpointError(f"{reference}: has no config.json; name the folder of a model in Hugging Face's format")
    config = read_object(path, reference)
    _check(reference, config, "")
    for key, value in _inner(config):
        _check_modules(reference, key, value)
    text = config.get("text_config")
    if isinstance(text, dict):
        _check(reference, text, "text_config.")
    elif text is not None:
        raise _wrong(reference, "text_config", text, "an object")
    if quantised := config.get("quantization_config"):
        kind = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
        raise CheckpointError(f"{reference}: is quantised ({repr(kind)[:80]}); merge the model it was quantised from")
    return config


def _check(reference: str, config: dict[str, Any], where: str) -> None:
    for key in _COUNTS:
        value = config.get(key)
        if value is not None and not (type(value) is int and 0 <= value <= _LARGEST):
            raise _wrong(reference, where + key, value, "a count")
    if not isinstance(config.get("tie_word_embeddings"), (bool, type(None))):
        raise _wrong(reference, where + "tie_word_embeddings", config["tie_word_embeddings"], "true or false")
    if not _is_name(config.get("model_type", "")):
        raise _wrong(reference, where + "model_type", config["model_type"], "a name")
    named = config.get("architectures")
    if named is not None and not (isinstance(named, list) and all(map(_is_name, named))):
        raise _wrong(reference, where + "architectures", named, "a list of names")
    types = config.get("layer_types")
    if types is not None and not (isinstance(types, list) and all(map(_is_name, types))):
        raise _wrong(reference, where + "layer_types", types, "a list of names")


def _inner(node: dict[str, Any] | list[Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, with those of the sections around it, and what stands there."""
    for key, value in node.items() if isinstance(node, dict) else (("", each) for each in node):
        place = ".".join(filter(None, (where, str(key))))
        if key:
            yield place, value
        if isinstance(value, (dict, list)):
            yield from _inner(value, place)


def _check_modules(reference: str, key: str, value: Any) -> None:
    """Raise CheckpointError for more modules than any model has, and for code that a model has no need to name."""
    last = key.rpartition(".")[2]
    if isinstance(value, (int, float)) and _REPEATED.search(last) and value > _MOST_MODULES:
        raise _wrong(reference, key, value, f"a count up to {_MOST_MODULES}")
    if any(_IMPLEMENTATION.fullmatch(part) for part in key.split(".")) and isinstance(value, str) and "/" in value:
        raise CheckpointError(
            f"{reference}: config.json has {key}: {repr(value)[:80]}, which would load compiled code from the Hub;"
            " remove it from config.json"
        )


def _is_name(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable())


def _wrong(reference: str, key: str, value: Any, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"{reference}: config.json has {key}: {repr(value)[:80]}, which is not {wanted}; take the model's own"
        " config.json"
    )
