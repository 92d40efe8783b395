"""Which files a search's task folders need on another machine, and where they stand in a package for it.

Files below the working folder keep their paths under `packed/here`, all others theirs from the root under
`packed/elsewhere`: no two can meet, and what a task says relative to its own file stays true. Beside the folders'
own files these are the templates, functions and data outside of them that a task's YAML names. Where a path in the
YAML would lead elsewhere in the package, the packed copy says the new one.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from evolve.errors import ConfigError
from tasks.data_files import local_files, locate
from tasks.errors import TaskError

HERE, ELSEWHERE = "packed/here", "packed/elsewhere"
LEFT_OUT = {"__pycache__"}  # and whatever is hidden
TASKS = (".yaml", ".yml")
FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")


@dataclass
class TaskFiles:
    """Place in the package -> file here, and the texts of those that are packed otherwise than they stand here."""

    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    checkpoints: list[Path] = field(default_factory=list)  # folders that were left out

    def add(self, path: Path) -> None:
        self.files.setdefault(place(path), path)

    def holds(self, where: str) -> bool:
        return where in self.files or any(each.startswith(f"{where}/") for each in self.files)


def place(path: Path) -> str:
    """Where a file or folder of this machine stands in the package."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    if absolute == here or here in absolute.parents:
        return posixpath.normpath(f"{HERE}/{absolute.relative_to(here).as_posix()}")
    return f"{ELSEWHERE}/{absolute.relative_to(absolute.anchor).as_posix()}"


def task_files(include: Sequence[str]) -> TaskFiles:
    """All that the folders `include` need. Raises ConfigError for what cannot be packed."""
    found = TaskFiles()
    for number, name in enumerate(include):
        folder = Path(name)
        if not folder.is_dir():
            raise ConfigError(f"score.include[{number}] ({name}): is not a folder here; name a folder of task files")
        add_folder(found, folder)
    waiting = [path for where, path in found.files.items() if where.endswith(TASKS)]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += add_named(found, path)
    for path in sorted(seen):
        rewrite(found, path)
    return found


def add_folder(found: TaskFiles, folder: Path) -> None:
    """Its files, without hidden ones and checkpoints. Raises ConfigError for links that are not followed."""
    inside = folder.resolve()
    for root, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in LEFT_OUT)
        if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names):
            found.checkpoints.append(Path(root))
            below.clear()
            continue
        for path in (Path(root, name) for name in [*below, *sorted(names)] if not name.startswith(".")):
            check_link(path, inside)
            if path.is_file():
                found.add(path)


def check_link(path: Path, inside: Path) -> None:
    """Raises ConfigError for a link to a folder, and for one out of the folder `inside`."""
    if not path.is_symlink() or not (path.is_dir() or inside not in path.resolve().parents):
        return
    kind, what = ("folder", "to a folder") if path.is_dir() else ("file", "out of its folder")
    raise ConfigError(
        f"score.include ({path}): is a link {what}, to {path.resolve()}; put the {kind} itself there, or take the "
        "link away"
    )


def add_named(found: TaskFiles, path: Path) -> list[Path]:
    """Add what a task's YAML names; returns the templates among it, which name files in their turn."""
    config = read(path)
    included = [each for each in templates(config, path) if each.is_file()]
    for each in included:
        found.add(each)
    for module in FUNCTION.findall(text_of(path)):
        file = path.parent.joinpath(*module.split(".")).with_suffix(".py")
        if file.is_file():
            found.add(file)
    for file in local_files(located(path)):
        found.add(file)
    return included


def rewrite(found: TaskFiles, path: Path) -> None:
    """Correct the data paths in the packed copy of a task's YAML, or of its template, that would lead elsewhere."""
    folder = posixpath.dirname(place(path))
    for said, meant in paths(whole(path), located(path)):
        target = place(Path(meant))
        leads = said == meant if is_pattern(said) else leading(found, said, folder) != target
        if not (leads and (is_pattern(said) or found.holds(target))):
            continue
        pattern = re.compile(rf"(?<![\w./-]){re.escape(said)}(?![\w./-])")
        for each in with_templates(path):
            where = place(each)
            text, count = pattern.subn(lambda _: target, found.texts.get(where) or text_of(each))  # noqa: B023
            if count or target in text:
                found.texts[where] = text
                break
        else:
            raise ConfigError(
                f"{path}: data_files ({said}): cannot be given its place on the cluster; write the path plainly in one "
                "line, or put the file into the task's folder"
            )


def leading(found: TaskFiles, said: str, folder: str) -> str | None:
    """Where a path leads in the package: from its root, else from the YAML's folder and those above it."""
    above = [folder]
    while above[-1]:
        above.append(posixpath.dirname(above[-1]))
    candidates = (posixpath.normpath(posixpath.join(each, said)) for each in ("", *above))
    return next((each for each in candidates if found.holds(each)), None)


def located(path: Path) -> dict[str, Any]:
    """The task's configuration with paths as they are found here; {} where its data is not here."""
    try:
        return locate(whole(path), path.parent)
    except (TaskError, OSError):
        return {}  # whoever asks for this task is told so when the run begins


def whole(path: Path, depth: int = 10) -> dict[str, Any]:
    """A task's configuration with its templates', as lm-eval joins them."""
    config = read(path)
    joined: dict[str, Any] = {}
    for each in templates(config, path) if depth else ():
        joined |= whole(each, depth - 1)
    return joined | config


def with_templates(path: Path, depth: int = 10) -> Iterator[Path]:
    """A YAML and all that it is made of."""
    yield path
    for each in templates(read(path), path) if depth else ():
        yield from with_templates(each, depth - 1)


def templates(config: Mapping[str, Any], path: Path) -> list[Path]:
    """The files that a YAML includes, relative to it."""
    names = config.get("include") or []
    names = [names] if isinstance(names, str) else names if isinstance(names, list) else []
    return [path.parent / name for name in names if isinstance(name, str)]


def paths(said: Mapping[str, Any], meant: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each data path as it is written, with what it means here."""
    for key in ("data_files", "data_dir"):
        pair = [config.get("dataset_kwargs") or {} for config in (said, meant)]
        yield from both(pair[0].get(key), pair[1].get(key))


def both(said: Any, meant: Any) -> Iterator[tuple[str, str]]:
    if isinstance(said, str) and isinstance(meant, str) and "://" not in said:
        yield said, meant
    elif isinstance(said, Mapping) and isinstance(meant, Mapping):
        for key in said:
            yield from both(said[key], meant.get(key))
    elif isinstance(said, list) and isinstance(meant, list):
        for one, other in zip(said, meant, strict=True):
            yield from both(one, other)


def is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[")


class TaskLoader(yaml.SafeLoader):
    """Reads past `!function` and other tags."""


TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def read(path: Path) -> dict[str, Any]:
    """A task's YAML; {} for what is none."""
    try:
        data = yaml.load(text_of(path), TaskLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
