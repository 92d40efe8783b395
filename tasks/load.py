"""Load the tasks that a name stands for: a task, a group or a tag, of the include folders or of lm-eval's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry

from tasks.build import Factory
from tasks.catalog import Catalog, builtin
from tasks.errors import TaskError, UnknownTask, did_you_mean, raise_all
from tasks.quiet import silence_libraries
from tasks.sandbox import use_sandbox


@dataclass(frozen=True)
class Loaded:
    """The tasks that one name stands for; `group` is None for a single task and for a tag."""

    tasks: tuple[ConfigurableTask, ...]
    group: Group | None = None

    def by_size(self, metric: str | None) -> bool:
        """Whether lm-eval weights the group's tasks by their numbers of documents when it averages the metric (None:
        the first that it averages)."""
        averaged = (self.group.aggregate_metric_list or []) if self.group is not None else []
        named = [each for each in averaged if metric is None or each.metric == metric] or averaged
        return bool(named) and bool(named[0].weight_by_size)


class TaskLibrary:
    """The tasks that can be named. Nothing is parsed before it is asked for.

    `admit` is called with every task's name before its data is read, and may raise TaskError.
    Raises TaskError when an include folder does not exist.
    """

    def __init__(self, include: Sequence[Path], admit: Callable[[str], None] = lambda name: None) -> None:
        silence_libraries()
        use_sandbox()
        folders = tuple(Path(folder) for folder in include)
        raise_all(
            [
                TaskError(f"include: {str(folder)!r} is not a folder; name a folder of lm-eval task files (*.yaml)")
                for folder in folders
                if not folder.is_dir()
            ]
        )
        self._own = tuple(Catalog(folder) for folder in reversed(folders))  # a later folder overrides an earlier one
        self._registry = Registry(self._own)
        self._factory = Factory(admit=admit, root_of=self._root_of)

    def load(self, name: str) -> ConfigurableTask:
        """The single task of this name with its data read, its few-shot sampler not yet seeded.

        Raises UnknownTask for a name that is not there, and TaskError for a group or tag, for a task whose
        data cannot be read, and for the kinds of tasks that cannot be scored.
        """
        loaded = self.load_all(name)
        if loaded.group is not None or loaded.tasks[0].config.task != name:
            raise TaskError(f"task {name!r}: is a group or a tag, not a task; name one of its tasks")
        return loaded.tasks[0]

    def load_all(self, name: str) -> Loaded:
        """The tasks of this name, those of nested groups too. Raises as `load` does."""
        entry = self._registry.entry(name)
        try:
            built = self._factory.build(entry, registry=self._registry)
        except TaskError:
            raise
        except Exception as error:
            cause = str(error).strip().partition("\n")[0] or "no message"
            raise TaskError(
                f"task {name!r}: the group cannot be loaded ({type(error).__name__}: {cause}); see its file"
            ) from error
        if isinstance(built, Group):
            tasks, group = tuple(built.get_all_tasks()), built
        else:
            tasks, group = tuple(built) if isinstance(built, list) else (built,), None
        if not tasks:
            raise TaskError(f"task {name!r}: the group has no tasks; name them in its file, under `task`")
        return Loaded(tasks, group)

    def names(self, *, builtin: bool = False) -> tuple[str, ...]:
        """Names of all single tasks of the include folders, and of lm-eval's own if asked (seconds); sorted."""
        folders = [catalog.root for catalog in reversed(self._own)]
        return tuple(TaskManager(include_path=folders, include_defaults=builtin).all_subtasks)

    def _root_of(self, path: Path) -> Path | None:
        return next((each.root for each in self._own if path.is_relative_to(each.root)), None)


class Registry:
    """What lm-eval's factory asks for a name: its index, but found when it is asked for."""

    def __init__(self, own: Iterable[Catalog]) -> None:
        self._own = tuple(own)
        self._registered: dict[str, Entry] = {}

    def entry(self, name: str) -> Entry:
        """Raises UnknownTask."""
        found = self._find(name)
        if found is not None:
            return found
        hint = next((hint for each in (*self._own, builtin()) if (hint := did_you_mean(name, each.names))), "")
        own = ", ".join(sorted({known for each in self._own for known in each.names})[:20]) or "none"
        advice = hint or "; name a task of the include folders or one of lm-eval's own"
        unread = "".join(f"; {problem}" for each in self._own if (problem := each.unreadable()))
        raise UnknownTask(f"task {name!r}: no such task{advice} (in the include folders: {own}){unread}")

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def __getitem__(self, name: str) -> Entry:
        return self.entry(name)

    def __setitem__(self, name: str, entry: Any) -> None:
        self._registered[name] = entry

    def _find(self, name: str) -> Entry | None:
        if name in self._registered:
            return self._registered[name]
        return next((found for each in (*self._own, builtin()) if (found := each.find(name))), None)
