"""The rules that keep the house small: who imports whom, no cycles, no module over 300 lines."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("evolve", "search_spaces", "engine", "tasks")
MAY_IMPORT = {
    "evolve": {"evolve", "search_spaces", "engine", "tasks"},
    "search_spaces": {"search_spaces", "engine"},
    "engine": {"engine"},
    "tasks": {"tasks"},
}
LONGEST = 300
VAGUE = {"utils", "util", "common", "helpers", "base", "misc"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    if "models" not in path.parts
}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it, by full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in names)


def test_every_room_was_found() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(ROOMS)
    assert len(MODULES) > 40


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    room = name.split(".")[0]
    for target in imported(MODULES[name]):
        top = target.split(".")[0]
        if top in ROOMS:
            assert top in MAY_IMPORT[room], f"{name} imports {target}"


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_short_and_well_named(name: str) -> None:
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{name} has {lines} lines; find the seam and move a part"
    assert name.split(".")[-1] not in VAGUE


def importers(top: str) -> set[str]:
    return {name for name, path in MODULES.items() if any(t.split(".")[0] == top for t in imported(path))}


def test_heavy_libraries_have_one_door() -> None:
    assert {name.split(".")[0] for name in importers("lm_eval")} == {"tasks"}
    assert importers("ray") == {
        "evolve.workers.cluster",
        "evolve.workers.fleet",
        "evolve.workers.joining",
        "evolve.submission.jobs",
    }
    submitting = {name for name, path in MODULES.items() if any("ray.job_submission" in t for t in imported(path))}
    assert submitting == {"evolve.submission.jobs"}
    assert {name for name, path in MODULES.items() if any("optuna.storages" in t for t in imported(path))} == {
        "evolve.storage.database",
        "evolve.storage.journal",
    }
    assert not [name for name in importers("transformers") if name.startswith(("engine", "search_spaces"))]


def test_benchmarks_import_what_there_is() -> None:
    scripts = [path for path in (ROOT / "results").rglob("*.py") if "models" not in path.parts]
    assert len(scripts) > 20
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ROOMS:
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    there = hasattr(module, alias.name) or f"{node.module}.{alias.name}" in MODULES
                    assert there, f"{path}: {node.module} has no {alias.name}"


def test_no_cycles() -> None:
    graph = {name: [t for t in imported(path) if t in MODULES] for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
