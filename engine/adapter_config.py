"""adapter_config.json of a LoRA adapter: what is read of it, and what is refused."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
from engine.json_file import read_object
from engine.own_files import check_own

# Variants of LoRA whose weights are not W + s B A, or that change the base they were trained on.
_REFUSED = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config",
)  # fmt: skip
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PATTERN_LIMIT = 256
"""Letters of a pattern and of a name that is matched with it."""
_REPEATS = 2
"""Repeats in a pattern; with PEFT's own prefix a match costs at most the cube of the name's length."""
_PATTERN_SECONDS = 5.0
_LARGEST = 1e9


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a LoRA adapter. Raises CheckpointError for another kind, or a malformed one."""
    path = folder / "adapter_config.json"
    if not path.exists():
        raise CheckpointError(f"{folder}: has no adapter_config.json; name the folder of an adapter in PEFT's format")
    check_own(folder, [path])
    config = read_object(path, str(folder))
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder}: is an adapter of kind {_shown(config.get('peft_type'))}; only LORA is supported, merge it"
            " with PEFT"
        )
    for key in ("r", "lora_alpha"):
        if not _is_number(config.get(key)) or config["r"] <= 0:
            raise CheckpointError(
                f"{path}: {key} is {repr(config.get(key))[:80]}, not a positive number; save the adapter again"
            )
    for key in _REFUSED:
        if config.get(key):
            raise CheckpointError(f"{folder}: uses {key}, which is not supported; merge it with PEFT first")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_is_number(value) for value in patterns.values()):
        raise CheckpointError(f"{path}: alpha_pattern does not map patterns to numbers; save the adapter again")
    for pattern in patterns:
        _check_pattern(path, pattern)
    if str(config.get("init_lora_weights")).lower().startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{folder}: was initialised with {_shown(config['init_lora_weights'])}, which changes the base's weights;"
            " convert it to plain LoRA or merge it with PEFT first"
        )
    return config


def scaling(folder: Path, config: dict[str, Any], modules: dict[str, int]) -> Iterator[float]:
    """Yield s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023), of each module.

    `modules` maps names to ranks. Raises CheckpointError where the patterns take too long to match.
    """
    start = time.monotonic()
    for module, rank in modules.items():
        alpha = config["lora_alpha"]
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if len(module) > _PATTERN_LIMIT or time.monotonic() - start > _PATTERN_SECONDS:
                raise CheckpointError(
                    f"{folder}: alpha_pattern takes too long to match; name the modules in full there"
                )
            if re.match(rf"(.*\.)?({pattern})$", module):  # as PEFT reads the keys
                alpha = value
                break
        yield float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _shown(value: Any) -> str:
    return str(value)[:80] if str(value).isprintable() else repr(value)[:80]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _check_pattern(path: Path, pattern: str) -> None:
    """Raise CheckpointError for a pattern that is malformed, or that Python may need years to match.

    A repeated group, or many repeats, take exponential or high polynomial time; patterns of real adapters are names,
    or names with a wildcard or two.
    """
    plain = re.sub(r"\\.|\[[^\]]*\]", "x", pattern)
    costly = re.search(r"\)[*+?{]", plain) or len(re.findall(r"[*+?{]", plain.replace("(?", "("))) > _REPEATS
    if costly or len(pattern) > _PATTERN_LIMIT or re.search(r"\\\d|\(\?[P(]", pattern):
        raise CheckpointError(
            f"{path}: alpha_pattern has {pattern[:80]!r}, which may take years to match; name the modules in full there"
        )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: alpha_pattern has {pattern[:80]!r}, which is no regular expression ({error}); save the adapter"
            " again"
        ) from None
