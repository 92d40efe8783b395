"""Tasks loaded, checked and split once; prompts built once; shared by every candidate that is scored.

A `Prepared` holds lm-eval's task objects and belongs to one process: each worker prepares its own, and equal
digests say that they ask the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any

from lm_eval.api.task import ConfigurableTask

from tasks.benchmarks import benchmark_sign, name_sign, refuse
from tasks.documents import Document, DocumentSets, canonical, check_disjoint, shuffled_ids, split
from tasks.errors import TaskError, raise_all
from tasks.fewshot import fewshot_split, set_fewshot
from tasks.groups import spread
from tasks.inputs import inputs_digest
from tasks.load import TaskLibrary
from tasks.metric import Metric, find_metric, first_metric
from tasks.objective import Goal
from tasks.prompts import DocumentRequests, build_requests, chat_template, remember_templates
from tasks.request_store import Facts, read_facts, read_set, write_set
from tasks.spec import SETS, PromptSettings, SetName, Sizes, TaskSpec, check_search, check_specs

ALL: SetName = "all"


@dataclass(frozen=True)
class PreparedTask:
    """One task, ready to be asked; `benchmark` says why it looks like a public benchmark, if it does.

    `metric` is the one that the spec names, or else the task's first; all are recorded.
    """

    spec: TaskSpec
    task: ConfigurableTask
    metric: Metric
    documents: Sequence[Document]  # of the evaluated split, in its order: all, or as many as are asked
    available: int  # distinct ones among them
    sets: DocumentSets
    dataset_path: str | None
    split: str
    num_fewshot: int
    benchmark: str | None


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
            }
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
        return read_set(self._store, which, self._inputs, {name: each.documents for name, each in self.tasks.items()})

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

    members = _members(specs, TaskLibrary(include, admit), limit=None)
    inputs, facts = None, None
    if store is not None:
        inputs = inputs_digest(members, sizes=sizes, seed=seed, prompt=prompt, allow_benchmarks=allow_benchmarks,
                               tokenizer=tokenizer)  # fmt: skip
        facts = read_facts(store, SETS[0], inputs) if inputs else None

    def one(spec: TaskSpec, task: ConfigurableTask) -> PreparedTask:
        known = facts.get(spec.task) if facts else None
        each = _split_task(spec, task, sizes=sizes, seed=seed, prompt=prompt, known=known)
        if each.benchmark and not allow_benchmarks:
            raise refuse(spec.task, each.benchmark)
        return each

    tasks = _each(members, one)
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
        return _whole_task(spec, task, limit=limit, prompt=prompt)

    tasks = _each(_members(specs, TaskLibrary(include), limit=limit), one)
    return _built(Prepared(tasks, sizes=Sizes(0, 0, 0), seed=0, prompt=prompt, tokenizer=tokenizer), ("all",))


def _members(
    specs: Sequence[TaskSpec], library: TaskLibrary, *, limit: int | None
) -> list[tuple[TaskSpec, ConfigurableTask]]:
    """Every task that the specs stand for, with a spec of its own. Raises the TaskErrors of all at once."""
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
    raise_all(problems)
    return list(members.values())


def _each(
    members: Sequence[tuple[TaskSpec, ConfigurableTask]], one: Callable[[TaskSpec, ConfigurableTask], PreparedTask]
) -> list[PreparedTask]:
    """`one` of every task. Raises the TaskErrors of all at once."""
    tasks: list[PreparedTask] = []
    problems: list[TaskError] = []
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


def _split_task(
    spec: TaskSpec, task: ConfigurableTask, *, sizes: Sizes, seed: int, prompt: PromptSettings, known: Facts | None
) -> PreparedTask:
    metric = find_metric(task, spec.task, asked=str(spec.metric))
    shots = set_fewshot(spec, task, strict=True)
    _set_generation(task, prompt)
    documents = list(task.eval_docs)
    evaluated = _evaluated_split(task)
    inside = shots > 0 and fewshot_split(task) == evaluated
    if known is None:
        known = _facts(spec, task, documents, sizes=sizes, seed=seed, shots=shots, inside=inside)
    if inside:
        task.sampler.replace_df([documents[identity] for identity in known.sets.fewshot])
    remember_templates(task, documents)
    return PreparedTask(
        spec=spec,
        task=task,
        metric=metric,
        documents=documents,
        available=known.available,
        sets=known.sets,
        dataset_path=task.config.dataset_path,
        split=evaluated,
        num_fewshot=shots,
        benchmark=known.benchmark,
    )


def _facts(
    spec: TaskSpec,
    task: ConfigurableTask,
    documents: Sequence[Document],
    *,
    sizes: Sizes,
    seed: int,
    shots: int,
    inside: bool,
) -> Facts:
    """Which documents are in which set. `inside`: the few-shot examples come from the same split."""
    evaluated = _evaluated_split(task)
    contents = [canonical(document) for document in documents]
    examples = [] if inside or not shots else [canonical(document) for document in task.sampler.df]
    ids = shuffled_ids(contents, seed=seed, task=spec.task, excluded=examples)
    note = f" in split {evaluated!r}" + (" that are not few-shot examples" if examples else "")
    sets = split(ids, sizes, fewshot=shots if inside else 0, task=spec.task, note=note)
    if 0 < len(examples) < shots:
        raise TaskError(f"task {spec.task!r}: num_fewshot is {shots}, but there are {len(examples)} examples to draw")
    files = (task.config.dataset_kwargs or {}).get("data_files")
    sign = benchmark_sign(
        spec.task, dataset_path=task.config.dataset_path, data_files=files, split=evaluated, documents=documents
    )
    return Facts(sets, len(ids), sign)


def _whole_task(spec: TaskSpec, task: ConfigurableTask, *, limit: int | None, prompt: PromptSettings) -> PreparedTask:
    metric = find_metric(task, spec.task, asked=spec.metric) if spec.metric else first_metric(task)
    shots = set_fewshot(spec, task, strict=False)
    _set_generation(task, prompt)
    documents = list(islice(task.eval_docs, limit))
    remember_templates(task, documents)
    return PreparedTask(
        spec=spec,
        task=task,
        metric=metric,
        documents=documents,
        available=len(documents),
        sets=DocumentSets(all=tuple(range(len(documents)))),
        dataset_path=task.config.dataset_path,
        split=_evaluated_split(task),
        num_fewshot=shots,
        benchmark=None,
    )


def _evaluated_split(task: ConfigurableTask) -> str:
    return str(task.config.test_split if task.has_test_docs() else task.config.validation_split)


def _set_generation(task: ConfigurableTask, prompt: PromptSettings) -> None:
    """As `simple_evaluate(gen_kwargs=...)` does."""
    if prompt.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(prompt.gen_kwargs), update=True)
