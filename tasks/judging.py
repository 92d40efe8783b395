"""How a task turns answers into numbers, as text: equal text, equal numbers for equal answers.

Functions of the task's own stand in it with the contents of the file that they are in, since they may call others
there. Folders and names of files do not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from tasks.documents import canonical

KEYS = ("output_type", "metric_list", "filter_list", "process_results", "doc_to_target", "doc_to_choice", "repeats")


def judging(task: ConfigurableTask) -> str:
    """What `process_results` and the filters depend on beside the answers and the document."""
    described = {key: _described(getattr(task.config, key, None)) for key in KEYS}
    described["metrics"] = sorted(task._metric_fn_list)
    described["several"] = [bool(task.multiple_input), bool(task.multiple_target)]
    described["lm_eval"] = importlib.metadata.version("lm_eval")
    return canonical(described)


def _described(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    if isinstance(value, partial):
        return [_described(value.func), _described(value.args), _described(value.keywords)]
    if callable(value):
        return ["function", getattr(value, "__qualname__", type(value).__name__), _contents(value)]
    return value


def _contents(function: Any) -> str:
    try:
        path = inspect.getsourcefile(function if hasattr(function, "__code__") else type(function))
    except TypeError:  # built in
        return ""
    return _file_digest(path, Path(path).stat().st_mtime_ns) if path and Path(path).is_file() else ""


@lru_cache(maxsize=64)
def _file_digest(path: str, changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
