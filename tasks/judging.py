"""How a task turns answers into numbers, as text: equal text, equal numbers for equal answers.

Functions of the task's own stand in it with the contents of all code in the folder that they are in, since they may
call others there. Folders and names of files do not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from tasks.documents import canonical

KEYS = ("output_type", "metric_list", "filter_list", "process_results", "doc_to_target", "doc_to_choice", "repeats")


def judging(task: ConfigurableTask) -> str:
    """What `process_results` and the filters depend on beside the answers and the document."""
    settings = {key: described(getattr(task.config, key, None)) for key in KEYS}
    settings["metrics"] = sorted(task._metric_fn_list)
    settings["several"] = [bool(task.multiple_input), bool(task.multiple_target)]
    settings["lm_eval"] = importlib.metadata.version("lm_eval")
    return canonical(settings)


def described(value: Any) -> Any:
    """A setting of a task as what JSON can hold, functions by the code of their folders."""
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, partial):
        return [described(value.func), described(value.args), described(value.keywords)]
    if is_dataclass(value) and not isinstance(value, type):
        return described(vars(value))
    if callable(value):
        return ["function", getattr(value, "__qualname__", type(value).__name__), _contents(value)]
    return value


def _contents(function: Any) -> str:
    try:
        path = inspect.getsourcefile(function if hasattr(function, "__code__") else type(function))
    except TypeError:  # built in
        return ""
    return code_digest(Path(path).parent) if path and Path(path).is_file() else ""


def code_digest(folder: Path) -> str:
    """sha256 in hex over the contents of the Python files in a folder, whatever their names. Raises OSError."""
    return _digest_of(tuple((path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.py"))))


@lru_cache(maxsize=64)
def _digest_of(files: tuple[tuple[Path, int], ...]) -> str:
    """`files`: with the times of their last change."""
    each = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path, _ in files)
    return hashlib.sha256(" ".join(each).encode()).hexdigest()
