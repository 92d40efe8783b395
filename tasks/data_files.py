"""Where a task's local data is: `data_files` and `data_dir` of its `dataset_kwargs`, made to point at what is there.

lm-eval resolves a relative path from the working folder. Here the working folder comes first too, and then the
YAML's own folder and the folders above it, so that a task folder works from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import TaskError

LOCAL_BUILDERS = ("json", "csv", "parquet", "text", "arrow", "xml")  # `dataset_path`s that read files as they are


def locate(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The task's configuration with paths that exist. Raises TaskError that names the files that do not."""
    keywords = config.get("dataset_kwargs")
    if config.get("dataset_path") not in LOCAL_BUILDERS:
        return config
    if not isinstance(keywords, Mapping) or not any(keywords.get(key) for key in ("data_files", "data_dir")):
        raise TaskError(  # else `datasets` takes all that lies in the working folder and below
            f"dataset_path {config['dataset_path']!r}: no data is named; give dataset_kwargs, such as "
            "{data_files: {test: my.jsonl}}"
        )
    paths = {key: _located(keywords[key], folder) for key in ("data_files", "data_dir") if key in keywords}
    missing = [path for value in paths.values() for path in _missing(value)]
    if missing:
        raise TaskError(
            f"{', '.join(missing)}: there is no such data file (looked in the working folder, in {folder} and above); "
            "put it there, or name it right in dataset_kwargs"
        )
    return {**config, "dataset_kwargs": {**keywords, **paths}}


def local_files(config: Mapping[str, Any]) -> list[Path]:
    """The data files on this disk that a located configuration names, sorted; a folder gives all in it."""
    keywords = config.get("dataset_kwargs")
    if config.get("dataset_path") not in LOCAL_BUILDERS or not isinstance(keywords, Mapping):
        return []
    found: set[Path] = set()
    for key in ("data_files", "data_dir"):
        for text in _strings(keywords.get(key)):
            matches = Path().glob(text) if _is_pattern(text) and not Path(text).is_absolute() else [Path(text)]
            for path in matches:
                found |= {each for each in path.rglob("*") if each.is_file()} if path.is_dir() else {path}
    return sorted(path for path in found if path.is_file())


def _located(value: Any, folder: Path) -> Any:
    """A path (or a mapping or list of them), from the working folder, else from `folder` or one above it."""
    if isinstance(value, Mapping):
        return {key: _located(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_located(item, folder) for item in value]
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return value
    if _is_pattern(value):  # not searched for in the folders above: it may be wide
        here = any(Path().glob(value)) or not any(folder.glob(value))
        return value if here else str(folder / value)
    if not Path(value).exists():
        for parent in (folder, *folder.parents):
            if (parent / value).exists():
                return str(parent / value)
    return value


def _missing(value: Any) -> list[str]:
    return [text for text in _strings(value) if not _is_pattern(text) and not Path(text).exists()]


def _strings(value: Any) -> Iterator[str]:
    """All local paths in it."""
    if isinstance(value, str):
        if "://" not in value:
            yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[")
