"""Which Python code a task file would run: its `!function` references, checked before anything is imported.

A task of the user's own may run what stands beside it in its include folder, and what lm-eval brings along. A reference
to anything else (a file elsewhere, reached with a path or a link, or any importable module) is refused.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tasks.catalog import BUILTIN, TEMPLATES
from tasks.errors import TaskError

LM_EVAL = BUILTIN.parent
_NAMED = re.compile(rb"!function\s+[\"']?([\w./-]+)\.\w+")


def check_functions(path: Path, root: Path) -> None:
    """Raise TaskError for a `!function` of the task file `path`, or of a file that it includes, that leads out of the
    include folder `root`. lm-eval's own files are not looked at."""
    root = root.resolve()
    for file, reference in _references(path.resolve(), set()):
        if file.is_relative_to(LM_EVAL):
            continue
        module, _, name = reference.rpartition(".")
        target = (file.parent / f"{module.replace('.', '/')}.py").resolve()
        if target.exists():
            if not any(target.is_relative_to(folder) for folder in (root, LM_EVAL)):
                raise TaskError(_outside(path, reference, f"is {target}, outside of the include folder {root}"))
        elif module.partition(".")[0] != "lm_eval" and module and _importable(module):
            raise TaskError(_outside(path, reference, f"is the installed module {module}, not a file of the task's"))
        elif module.partition(".")[0] != "lm_eval":
            raise TaskError(
                f"{path}: !function {reference}: there is no {target.name} beside {file.name}; put {name or 'it'} there"
            )


def code_files(root: Path) -> tuple[Path, ...]:
    """The files that `!function` names in the task files of an include folder, sorted: what its tasks would run."""
    found: set[Path] = set()
    for file in root.rglob("*"):
        if file.suffix in TEMPLATES and file.is_file():
            for name in _NAMED.findall(file.read_bytes()):
                target = file.parent / f"{name.decode().replace('.', '/')}.py"
                found |= {target.resolve()} if target.is_file() else set()
    return tuple(sorted(found))


def _references(path: Path, seen: set[Path]) -> Iterator[tuple[Path, str]]:
    """(file, reference) of the file and, from the first to the last, those that it includes."""
    if path in seen:
        return
    seen.add(path)
    found: list[str] = []
    config = yaml.load(path.read_bytes(), Loader=_loader(found))
    yield from ((path, reference) for reference in found)
    included = config.get("include", []) if isinstance(config, dict) else []
    for other in included if isinstance(included, list) else [included]:
        yield from _references((path.parent / str(other)).resolve(), seen)


def _loader(found: list[str]) -> Any:
    class Loader(yaml.SafeLoader):
        """Notes references instead of following them."""

    def note(loader: yaml.SafeLoader, node: Any) -> str:
        found.append(str(loader.construct_scalar(node)))
        return found[-1]

    Loader.add_constructor("!function", note)
    return Loader


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _outside(path: Path, reference: str, where: str) -> str:
    return f"{path}: !function {reference} {where}; nothing was run: put the code beside the task's file"
