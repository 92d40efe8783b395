"""Find a task, group or tag by name in a folder of task files without parsing them all.

lm-eval's own folder holds 14,000 YAML files, and its index, which parses each, takes seconds. Here the bytes of all
files are searched for a line that could declare the name, and only files with such a line are parsed, in lm-eval's
order and by its own rules; in a large folder, a file of the name's own is looked at before. A declaration that stands
in an included template counts for the files that include it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks._index import Entry, Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml
from yaml import YAMLError

from tasks.errors import TaskError

IGNORED = {"__pycache__", ".ipynb_checkpoints"}
TEMPLATES = ("", ".yaml", ".yml")  # endings of the files that may be included
LARGE = 1000  # files: from here on it takes longer to read them all than to look for one
BUILTIN = Path(lm_eval.tasks.__file__).parent

_DECLARED = re.compile(rb"""^[ \t{]*["']?(?:task|group)["']?[ \t]*:[ \t]*["']?([^\s"'#,\[\]{}]+)""", re.MULTILINE)
_INCLUDED = re.compile(rb"""^include[ \t]*:([^\n]*(?:\n[ \t]*-[^\n]*)*)""", re.MULTILINE)


class Catalog:
    """The task files under one folder; what was read is kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._found: dict[str, Entry | None] = {}

    def find(self, name: str) -> Entry | None:
        """lm-eval's index entry of the name, or None.

        Raises TaskError if the only file that seems to declare it cannot be read as YAML.
        """
        if name not in self._found:
            self._found[name] = self._by_file_name(name) or self._by_contents(name)
        return self._found[name]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What seem to be names of tasks and groups: for hints, not exact."""
        found = {name for text in self._texts.values() for name in _DECLARED.findall(text)}
        return tuple(sorted(name.decode("utf-8", "replace") for name in found))

    def unreadable(self) -> str | None:
        """A file that is not valid YAML, which may hold what was looked for, and what is wrong with it."""
        for path in self._files if len(self._files) < LARGE else ():
            try:
                if path.endswith(".yaml"):
                    load_yaml(path, resolve_func=False)
            except YAMLError as error:
                return f"{path}: is not valid YAML: {' '.join(str(error).split())[:200]}"
            except Exception:  # templates and other files, which are no tasks
                continue
        return None

    def _by_file_name(self, name: str) -> Entry | None:
        paths = [path for path in self._files if Path(path).name == f"{name}.yaml"]
        if len(paths) != 1 or len(self._files) < LARGE:
            return None  # which one counts depends on all that declare the name
        try:
            entry = _index(paths).get(name)
        except TaskError:
            return None
        return entry if entry and entry.kind is not Kind.TAG else None

    def _by_contents(self, name: str) -> Entry | None:
        declares, word = _declaration(name), name.encode()
        files = {path for path, text in self._texts.items() if word in text and declares.search(text)}
        return _index(sorted(path for path in self._with_includers(files) if path.endswith(".yaml"))).get(name)

    def _with_includers(self, files: set[str]) -> set[str]:
        """These files and all that include one of them, directly or not."""
        new = files
        while new:
            names = {os.path.basename(path).encode() for path in new}
            new = {path for path, included in self._includes.items() if names & included} - files
            files = files | new
        return files

    @cached_property
    def _files(self) -> tuple[str, ...]:
        return tuple(sorted(_walk(self.root)))

    @cached_property
    def _texts(self) -> dict[str, bytes]:
        return dict(_read(self._files))

    @cached_property
    def _includes(self) -> dict[str, set[bytes]]:
        """By file, the names, without folders, of those that it includes."""
        return {
            path: set(re.split(rb"[\s/\"'\[\],]+", b" ".join(_INCLUDED.findall(text))))
            for path, text in self._texts.items()
            if b"include" in text
        }


@lru_cache(maxsize=1)
def builtin() -> Catalog:
    """The catalog of lm-eval's own tasks."""
    return Catalog(BUILTIN)


def _declaration(name: str) -> re.Pattern[bytes]:
    """A line that declares a task or group of the name, or a tag, alone or in a list."""
    word = re.escape(name.encode())
    scalar = rb"""["']?(?:task|group)["']?[ \t]*:[ \t]*["']?""" + word + rb"""["']?[ \t]*(?:[#,}\r]|$)"""
    tag = rb"""["']?tag["']?[ \t]*:(?:[^\n]*[\s"'\[,]|(?:[^\n]*\n[ \t]*-)+[ \t]*["']?)""" + word
    return re.compile(rb"(?:" + scalar + rb"|" + tag + rb"""["']?[ \t]*(?:[#,}\]\r]|$))""", re.MULTILINE)


def _index(paths: Iterable[str]) -> dict[str, Entry]:
    """lm-eval's index of these files alone, in this order. Raises TaskError if none of them can be read."""
    index: dict[str, Entry] = {}
    problems = []
    for path in paths:
        try:
            TaskIndex.process_cfg(load_yaml(path, resolve_func=False), Path(path), index)
        except Exception as error:  # lm-eval passes over files that it cannot read
            problems.append(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if problems and not index:
        raise TaskError(f"{problems[0]}; mend the task's file")
    return index


def _walk(root: Path) -> Iterator[str]:
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in IGNORED]
        yield from (os.path.join(folder, file) for file in files if os.path.splitext(file)[1] in TEMPLATES)


def _read(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:
                yield path, file.read()
        except OSError:
            continue
