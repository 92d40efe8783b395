"""What prepared requests are made from, as one digest: equal digests, equal requests."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from tasks.catalog import BUILTIN
from tasks.data_files import local_files
from tasks.documents import canonical
from tasks.judging import code_digest, described
from tasks.spec import PromptSettings, Sizes, TaskSpec

VERSION = 1  # of what this program makes of the same inputs, and of how it is stored
DATA = "dataset_kwargs"


def inputs_digest(
    members: Sequence[tuple[TaskSpec, ConfigurableTask]],
    *,
    sizes: Sizes,
    seed: int,
    prompt: PromptSettings,
    allow_benchmarks: bool,
    tokenizer: Any,
) -> str | None:
    """sha256 in hex over the settings, the tokenizer's and the task files' contents, and the data; None for tokenizers
    whose contents cannot be told.

    The tasks are as they were loaded. Data on the disk counts by its contents, data of the Hub by the fingerprints that
    `datasets` gives its splits.
    """
    tokens = tokenizer_digest(tokenizer)
    if tokens is None:
        return None
    facts = {
        "version": VERSION,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "asked": [asdict(sizes), seed, asdict(prompt), allow_benchmarks],
        "tokenizer": tokens,
        "tasks": [[asdict(spec), _task(task)] for spec, task in members],
    }
    return _sha256(canonical(facts).encode("utf-8", "surrogatepass"))


def tokenizer_digest(tokenizer: Any) -> str | None:
    """sha256 in hex over what decides a tokenizer's ids and chat texts; None for one that is not of `tokenizers`."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        return None
    padding, truncation = inner.padding, inner.truncation  # left over from the last text
    inner.no_padding()
    inner.no_truncation()
    try:
        text = inner.to_str()
    finally:
        if padding is not None:
            inner.enable_padding(**padding)
        if truncation is not None:
            inner.enable_truncation(**truncation)
    facts = [
        type(tokenizer).__name__,
        _sha256(text.encode("utf-8", "surrogatepass")),
        getattr(tokenizer, "chat_template", None),
        {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
        {key: getattr(tokenizer, key, None) for key in ("add_bos_token", "add_eos_token", "add_prefix_space")},
    ]
    return _sha256(canonical(facts).encode("utf-8", "surrogatepass"))  # type: ignore[arg-type]


def _task(task: ConfigurableTask) -> Any:
    settings = {key: described(value) for key, value in vars(task.config).items() if key not in ("metadata", DATA)}
    source = Path(str((task.config.metadata or {}).get("config_source", "")))
    settings["metadata"] = {key: value for key, value in (task.config.metadata or {}).items() if key != "config_source"}
    files = local_files({"dataset_path": task.config.dataset_path, DATA: task.config.dataset_kwargs})
    if files:
        settings["data"] = [_sha256(path.read_bytes()) for path in files]
    else:
        splits = task.dataset.items() if hasattr(task.dataset, "items") else []
        settings["data"] = [[name, getattr(split, "_fingerprint", repr(split))] for name, split in splits]
        settings[DATA] = task.config.dataset_kwargs
    if source.is_file() and not source.is_relative_to(BUILTIN):  # a function's module may import others beside it
        settings["code"] = code_digest(source.parent)
    return settings


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
