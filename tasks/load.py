"""Find lm-eval tasks by name and load them, with their data.

Names are looked for in the include folders first (milliseconds); only what is not found there costs the
index of lm-eval's own tasks (seconds, once per process).

lm-eval resolves a relative `data_files` from the working folder. Here the working folder comes first too, and
then the YAML's own folder and the folders above it, so that a task folder works from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from tasks.errors import TaskError, UnknownTask, did_you_mean, raise_all
from tasks.quiet import silence_libraries

LOCAL_BUILDERS = (
    "json",
    "csv",
    "parquet",
    "text",
    "arrow",
    "xml",
)  # `dataset_path`s that read files as they are


class TaskLibrary:
    """The tasks that can be named: those of the include folders, then lm-eval's own.

    Raises TaskError when an include folder does not exist.
    """

    def __init__(self, include: Sequence[Path]) -> None:
        silence_libraries()
        folders = tuple(Path(folder) for folder in include)
        raise_all(
            [
                TaskError(f"include: {str(folder)!r} is not a folder; name a folder of lm-eval task files (*.yaml)")
                for folder in folders
                if not folder.is_dir()
            ]
        )
        self._own = TaskManager(include_path=list(folders), include_defaults=False)

    def load(self, name: str) -> ConfigurableTask:
        """The task with its data read, its few-shot sampler not yet seeded.

        Raises UnknownTask for a name that is not there, and TaskError for a group or tag, for a task whose
        data cannot be read, and for the kinds of tasks that cannot be searched on.
        """
        manager = self._manager_of(name)
        entry = manager.task_index[name]
        if name in manager.all_groups or name in manager.all_tags:
            members = _members(manager, name)
            shown = ", ".join(members[:8]) + (", ..." if len(members) > 8 else "")
            raise TaskError(f"task {name!r}: is a group, not a task; name single tasks (it has {shown})")
        try:
            config = load_yaml(entry.yaml_path)
            if config.get("dataset_path") in LOCAL_BUILDERS and config.get("dataset_kwargs"):
                config["dataset_kwargs"] = _located(config["dataset_kwargs"], entry.yaml_path.parent)
            task = manager.load([config])["tasks"][name]
        except Exception as error:  # a task file runs code of its own: anything can come out of it
            cause = str(error).strip().partition("\n")[0] or "no message"
            raise TaskError(
                f"task {name!r}: cannot be loaded from {entry.yaml_path.name} "
                f"({type(error).__name__}: {cause}); see that its data is there, or downloaded beforehand"
            ) from error
        return _supported(task, name)

    def names(self, *, builtin: bool = False) -> tuple[str, ...]:
        """Names of all single tasks of the include folders, and of lm-eval's own if asked; sorted."""
        found = list(self._own.all_subtasks) + (list(_builtin().all_subtasks) if builtin else [])
        return tuple(sorted(dict.fromkeys(found)))

    def _manager_of(self, name: str) -> TaskManager:
        if name in self._own.task_index:
            return self._own
        builtin = _builtin()
        if name in builtin.task_index:
            return builtin
        hint = did_you_mean(name, self._own.all_tasks) or did_you_mean(name, builtin.all_tasks)
        own = ", ".join(self._own.all_subtasks) or "none"
        advice = hint or "; name a task of the include folders or one of lm-eval's own"
        raise UnknownTask(f"task {name!r}: no such task{advice} (in the include folders: {own})")


@lru_cache(maxsize=1)
def _builtin() -> TaskManager:
    return TaskManager(include_defaults=True)


def _members(manager: TaskManager, name: str) -> tuple[str, ...]:
    """Names of the tasks in a group or tag, one level down."""
    entry = manager.task_index[name]
    listed: Iterable[Any] = (entry.cfg or {}).get("task") or sorted(entry.tags)
    return tuple(item if isinstance(item, str) else item.get("task") or item.get("group") for item in listed)


def _supported(task: Any, name: str) -> ConfigurableTask:
    """The task if it can be scored here; TaskError otherwise."""
    if not isinstance(task, ConfigurableTask):
        raise TaskError(f"task {name!r}: is a Python class of its own, not a YAML task; write it as a YAML task")
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"task {name!r}: asks about images or sound; only text tasks can be scored")
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(f"task {name!r}: runs code that the model wrote; such tasks are not scored here")
    return task


def _located(keywords: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`dataset_kwargs` with the paths of `data_files` and `data_dir` made to point at what is there."""
    paths = {key: _located_path(keywords[key], folder) for key in ("data_files", "data_dir") if key in keywords}
    return {**keywords, **paths}


def _located_path(value: Any, folder: Path) -> Any:
    """A path (or a mapping or list of them), from the working folder, else from `folder` or one above it."""
    if isinstance(value, Mapping):
        return {key: _located_path(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_located_path(item, folder) for item in value]
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return value
    if any(mark in value for mark in "*?["):  # a pattern is not searched for in the folders above: it may be wide
        here = any(Path().glob(value)) or not any(folder.glob(value))
        return value if here else str(folder / value)
    if not Path(value).exists():
        for parent in (folder, *folder.parents):
            if (parent / value).exists():
                return str(parent / value)
    return value  # missing everywhere: `datasets` names it
