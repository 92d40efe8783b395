"""lm-eval's task objects out of index entries: its own factory, with paths found, code checked and faults named."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry

from tasks.data_files import locate
from tasks.errors import TaskError
from tasks.faults import check_config, fault
from tasks.functions import check_functions


class Factory(TaskFactory):  # type: ignore[misc]
    """`admit` is called with every task's name before its data is read, and may raise TaskError. `root_of` gives the
    include folder that a task file belongs to, None for lm-eval's own."""

    def __init__(self, *, admit: Callable[[str], None], root_of: Callable[[Path], Path | None]) -> None:
        super().__init__()
        self._admit, self._root_of = admit, root_of

    def _load_full_config(self, entry: Entry, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        path = entry.yaml_path
        if path is not None and (root := self._root_of(path)) is not None:
            check_functions(path, root)
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        return config

    def _build_task(self, entry: Entry, overrides: dict[str, Any] | None) -> ConfigurableTask:
        name = entry.name
        self._admit(name)
        source = f" from {entry.yaml_path.name}" if entry.yaml_path else ""
        try:
            with seeded():
                config = self._load_full_config(entry, overrides)
                if entry.yaml_path is not None:
                    config = locate(config, entry.yaml_path.parent)
                return _constructed({key: value for key, value in config.items() if key not in STRUCTURE})
        except TaskError as error:
            raise type(error)(f"task {name!r}: {error}") from None
        except Exception as error:  # reading a file imports its functions: anything can come out of it
            cause = str(error).strip().partition("\n")[0] or "no message"
            raise TaskError(
                f"task {name!r}: cannot be loaded{source} ({type(error).__name__}: {cause}); see its file"
            ) from error

    def _build_group(
        self, group_name: str, raw_cfg: dict[str, Any], overrides: dict[str, Any] | None, registry: Any
    ) -> Group:
        members = raw_cfg.get("task")
        for member in members if isinstance(members, list) else []:
            bare = isinstance(member, dict) and set(member) == {"task"}
            if isinstance(member, str) or bare:  # others may be tasks that stand in the group's file
                registry.entry(member["task"] if bare else member)
        return super()._build_group(group_name, raw_cfg, overrides, registry)


STRUCTURE = ("tag", "group", "task_list")  # keys that are no part of a task's configuration


@contextmanager
def seeded() -> Iterator[None]:
    """Random generators as `simple_evaluate` has them when it loads tasks: `process_docs` may shuffle choices."""
    kept, kept_numpy = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)


def _constructed(config: dict[str, Any]) -> ConfigurableTask:
    """The task. Raises TaskError for the kinds of tasks that cannot be scored here, and for a first document that
    lm-eval fails on while it looks at it."""
    if "class" in config:
        raise TaskError("is a Python class of its own, not a YAML task; write it as a YAML task")
    if config.get("doc_to_image") is not None or config.get("doc_to_audio") is not None:
        raise TaskError("asks about images or sound; only text tasks can be scored")
    if config.get("unsafe_code"):
        raise TaskError("runs code that the model wrote; such tasks are not scored here")
    check_config(config)
    task = ConfigurableTask.__new__(ConfigurableTask)
    try:
        task.__init__(config=dict(config))
    except Exception as error:  # a task file runs code of its own: anything can come out of it
        told = _first_fault(task) if isinstance(error, IndexError) else None
        raise TaskError(told or fault(task, config, error)) from error
    return task


def _first_fault(task: ConfigurableTask) -> str | None:
    """What is wrong with the first document of a task whose construction ended in looking at it."""
    documents = getattr(task, "task_docs", None)
    if documents is None:
        return None
    if not len(documents):
        return "its evaluated split has no documents"
    choices = task.doc_to_choice(documents[0]) if task.config.doc_to_choice is not None else []
    empty = [number for number, choice in enumerate(choices) if not choice]
    if empty:
        return f"document 0: choice {empty[0]} is empty; see the task's doc_to_choice, or leave the document out"
    target = task.doc_to_target(documents[0])
    if not choices:
        return "document 0: it has no choices; see the task's doc_to_choice, or leave the document out"
    return (
        f"document 0: the right answer is {target!r:.60}, which is none of its {len(choices)} choices (the first is "
        "0); see the task's doc_to_target"
    )
