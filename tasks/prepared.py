"""Tasks loaded, checked and split once; prompts built once; shared by every candidate that is scored.

A `Prepared` holds lm-eval's task objects and belongs to one process: each worker prepares its own, and equal
digests say that they ask the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from lm_eval.api.task import ConfigurableTask

from tasks.benchmarks import name_sign, refuse
from tasks.documents import DocumentSets, canonical, check_disjoint
from tasks.errors import TaskError, raise_all
from tasks.groups import spread
from tasks.inputs import inputs_digest
from tasks.load import TaskLibrary
from tasks.objective import Goal
from tasks.prepared_task import PreparedTask, split_task, whole_task
from tasks.prompts import DocumentRequests, build_requests, chat_template
from tasks.request_store import Facts, read_facts, read_set, write_set
from tasks.spec import SETS, PromptSettings, SetName, Sizes, TaskSpec, check_search, check_specs

ALL: SetName = "all"


class Prepared:
    """What every candidate is asked. Made by `prepare`."""

    def __init__(
        self,
        tasks: Sequence[PreparedTask],
        *,
        sizes: Sizes,
        seed: int,
        prompt: PromptSettings,
        tokenizer: Any,
        inputs: str | None = None,
        store: Path | None = None,
    ) -> None:
        """`store`: the folder of files that may hold the requests made from `inputs` already."""
        self.tasks: Mapping[str, PreparedTask] = {task.spec.task: task for task in tasks}
        self.documents: Mapping[str, DocumentSets] = {name: task.sets for name, task in self.tasks.items()}
        self.benchmarks = tuple(name for name, task in self.tasks.items() if task.benchmark)
        self.sizes, self.seed, self.prompt = sizes, seed, prompt
        self._tokenizer = tokenizer
        self._inputs, self._store = inputs, store
        self._requests: dict[SetName, dict[str, tuple[DocumentRequests, ...]]] = {}

    def requests(self, which: SetName) -> Mapping[str, tuple[DocumentRequests, ...]]:
        """Per task, the set's documents with their requests; read from the store or built, at the first call."""
        if which not in self._requests:
            self._requests[which] = self._stored(which) or {
                name: build_requests(
                    each.task,
                    each.documents,
                    each.sets.ids(which),
                    prompt=self.prompt,
                    tokenizer=self._tokenizer,
                )
                for name, each in self.tasks.items()
                if each.sets.ids(which)
            } | {name: () for name, each in self.tasks.items() if not each.sets.ids(which)}
        return self._requests[which]

    def unstored(self) -> tuple[SetName, ...]:
        """The sets that the store has no file of, or one of other inputs; none where nothing can be stored."""
        if self._inputs is None or self._store is None:
            return ()
        return tuple(which for which in SETS if read_facts(self._store, which, self._inputs) is None)

    def write(self, which: SetName, file: IO[bytes]) -> None:
        """Write the set's file for the store. Raises OSError."""
        facts = {name: Facts(each.sets, each.available, each.benchmark) for name, each in self.tasks.items()}
        write_set(file, self.requests(which), facts, str(self._inputs))

    def _stored(self, which: SetName) -> dict[str, tuple[DocumentRequests, ...]] | None:
        if self._inputs is None or self._store is None:
            return None
        documents = {name: each.documents for name, each in self.tasks.items()}
        ids = {name: each.sets.ids(which) for name, each in self.tasks.items()}
        return read_set(self._store, which, self._inputs, documents, ids)

    @cached_property
    def objective_goals(self) -> tuple[Goal, ...]:
        """What the search maximises. A task whose metric needs all documents at once (see `Metric`) has no goal."""
        return tuple(
            Goal(name, str(each.metric), each.spec.weight, each.metric.higher_is_better, each.metric.aggregation)
            for name, each in self.tasks.items()
            if each.metric.aggregation is not None
        )

    @cached_property
    def digest(self) -> str:
        """sha256 over all that is asked: settings, ids, documents and prompts of all sets.

        Independent of which sets were built already, of folders and of the machine.
        """
        digest = hashlib.sha256()
        for line in self._asked():
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    def _asked(self) -> Iterator[str]:
        yield canonical({"sizes": asdict(self.sizes), "seed": self.seed, "prompt": asdict(self.prompt)})
        for name, each in self.tasks.items():
            yield canonical({"spec": asdict(each.spec), "metric": str(each.metric), "sets": asdict(each.sets)})
            yield canonical({"fewshot": [each.documents[identity] for identity in each.sets.fewshot]})
            for which in (*SETS, ALL):
                for request in self.requests(which)[name]:
                    yield canonical({"id": request.id, "request": request.digest})


def prepare(
    specs: Sequence[TaskSpec],
    *,
    include: Sequence[Path],
    sizes: Sizes,
    seed: int,
    tokenizer: Any,
    prompt: PromptSettings,
    allow_benchmarks: bool,
    sets: Sequence[SetName] = SETS,
    store: Path | None = None,
) -> Prepared:
    """Load and check the tasks, split their documents, and build the prompts of `sets` (others when first
    asked for). What the folder `store` holds, made from the same inputs, is read instead.

    Raises TaskError with the problems of all tasks at once: unknown task or metric, too few documents, a
    public benchmark that is not allowed, data that cannot be read.
    """
    check_search(specs, sizes)
    if prompt.apply_chat_template:
        chat_template(tokenizer)

    def admit(name: str) -> None:
        if not allow_benchmarks and (named := name_sign(name)):
            raise refuse(name, named)

    members, problems = _members(specs, TaskLibrary(include, admit), limit=None)
    inputs, facts = None, None
    if store is not None and not problems:
        inputs = inputs_digest(members, sizes=sizes, seed=seed, prompt=prompt, allow_benchmarks=allow_benchmarks,
                               tokenizer=tokenizer)  # fmt: skip
        facts = read_facts(store, SETS[0], inputs) if inputs else None

    def one(spec: TaskSpec, task: ConfigurableTask) -> PreparedTask:
        known = facts.get(spec.task) if facts else None
        each = split_task(spec, task, sizes=sizes, seed=seed, prompt=prompt, known=known)
        if each.benchmark and not allow_benchmarks:
            raise refuse(spec.task, each.benchmark)
        return each

    tasks = _each(members, one, problems)
    if facts is None:
        check_disjoint({each.spec.task: (each.documents, each.sets) for each in tasks})
    prepared = Prepared(tasks, sizes=sizes, seed=seed, prompt=prompt, tokenizer=tokenizer, inputs=inputs, store=store)
    return _built(prepared, sets)


def prepare_all(
    specs: Sequence[TaskSpec],
    *,
    include: Sequence[Path],
    limit: int | None,
    tokenizer: Any,
    prompt: PromptSettings,
) -> Prepared:
    """The tasks as `lm_eval --limit` asks them: the first `limit` documents of each (None: all), in their order, under
    the set name "all", few-shot examples drawn by lm-eval's own rule. Nothing is split and no benchmark refused.

    Raises TaskError as `prepare` does.
    """
    check_specs(specs)
    if limit is not None and limit < 1:
        raise TaskError(f"limit: {limit}; give 1 or more, or leave it out for all documents")
    if prompt.apply_chat_template:
        chat_template(tokenizer)

    def one(spec: TaskSpec, task: ConfigurableTask) -> PreparedTask:
        return whole_task(spec, task, limit=limit, prompt=prompt)

    members, problems = _members(specs, TaskLibrary(include), limit=limit)
    tasks = _each(members, one, problems)
    return _built(Prepared(tasks, sizes=Sizes(0, 0, 0), seed=0, prompt=prompt, tokenizer=tokenizer), ("all",))


def _members(
    specs: Sequence[TaskSpec], library: TaskLibrary, *, limit: int | None
) -> tuple[list[tuple[TaskSpec, ConfigurableTask]], list[TaskError]]:
    """Every task that the specs stand for, with a spec of its own, and what is wrong with the rest."""
    members: dict[str, tuple[TaskSpec, ConfigurableTask]] = {}
    problems: list[TaskError] = []
    for spec in specs:
        try:
            for member, task in spread(spec, library.load_all(spec.task), limit=limit):
                if member.task in members:
                    raise TaskError(f"task {member.task!r}: is asked twice, also in {spec.task!r}; name it once")
                members[member.task] = member, task
        except TaskError as problem:
            problems.append(problem)
    return list(members.values()), problems


def _each(
    members: Sequence[tuple[TaskSpec, ConfigurableTask]],
    one: Callable[[TaskSpec, ConfigurableTask], PreparedTask],
    problems: list[TaskError],
) -> list[PreparedTask]:
    """`one` of every task. Raises these TaskErrors and those of all tasks at once."""
    tasks: list[PreparedTask] = []
    for spec, task in members:
        try:
            tasks.append(one(spec, task))
        except TaskError as problem:
            problems.append(problem)
    raise_all(problems)
    return tasks


def _built(prepared: Prepared, sets: Sequence[SetName]) -> Prepared:
    for which in sets:
        prepared.requests(which)
    return prepared
