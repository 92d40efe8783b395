"""Tasks loaded, checked and split once; prompts built once; shared by every candidate that is scored.

A `Prepared` holds lm-eval's task objects and belongs to one process: each worker prepares its own, and equal
digests say that they ask the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from tasks.benchmarks import benchmark_sign, name_sign, refuse
from tasks.documents import Document, DocumentSets, canonical, shuffled_ids, split
from tasks.errors import TaskError, raise_all
from tasks.load import TaskLibrary
from tasks.metric import Metric, find_metric
from tasks.prompts import DocumentRequests, build_requests, remember_templates
from tasks.spec import SETS, PromptSettings, SetName, Sizes, TaskSpec, check_specs


@dataclass(frozen=True)
class PreparedTask:
    """One task, ready to be asked; `benchmark` says why it looks like a public benchmark, if it does."""

    spec: TaskSpec
    task: ConfigurableTask
    metric: Metric
    documents: Sequence[Document]  # all of the evaluated split, in its order
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
    ) -> None:
        self.tasks: Mapping[str, PreparedTask] = {task.spec.task: task for task in tasks}
        self.documents: Mapping[str, DocumentSets] = {name: task.sets for name, task in self.tasks.items()}
        self.benchmarks = tuple(name for name, task in self.tasks.items() if task.benchmark)
        self.sizes, self.seed, self.prompt = sizes, seed, prompt
        self._tokenizer = tokenizer
        self._requests: dict[SetName, dict[str, tuple[DocumentRequests, ...]]] = {}

    def requests(self, which: SetName) -> Mapping[str, tuple[DocumentRequests, ...]]:
        """Per task, the set's documents with their requests; built at the first call."""
        if which not in self._requests:
            self._requests[which] = {
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

    @cached_property
    def digest(self) -> str:
        """sha256 over all that is asked: settings, ids, documents and prompts of all three sets.

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
            for which in SETS:
                for request in self.requests(which)[name]:
                    asked = [(instance.request_type, instance.args, instance.repeats) for instance in request.instances]
                    yield canonical({"id": request.id, "document": request.document, "asked": asked})


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
) -> Prepared:
    """Load and check the tasks, split their documents, and build the prompts of `sets` (others when first
    asked for).

    Raises TaskError with the problems of all tasks at once: unknown task or metric, too few documents, a
    public benchmark that is not allowed, data that cannot be read.
    """
    tasks = _load_all(specs, include=include, sizes=sizes, seed=seed, allow_benchmarks=allow_benchmarks)
    prepared = Prepared(tasks, sizes=sizes, seed=seed, prompt=prompt, tokenizer=tokenizer)
    for which in sets:
        prepared.requests(which)
    return prepared


def _load_all(
    specs: Sequence[TaskSpec], *, include: Sequence[Path], sizes: Sizes, seed: int, allow_benchmarks: bool
) -> list[PreparedTask]:
    check_specs(specs, sizes)
    library = TaskLibrary(include)
    tasks: list[PreparedTask] = []
    problems: list[TaskError] = []
    for spec in specs:
        try:
            if not allow_benchmarks and (named := name_sign(spec.task)):
                raise refuse(spec.task, named)
            each = _prepare_task(spec, library.load(spec.task), sizes=sizes, seed=seed)
            if each.benchmark and not allow_benchmarks:
                raise refuse(spec.task, each.benchmark)
            tasks.append(each)
        except TaskError as problem:
            problems.append(problem)
    raise_all(problems)
    return tasks


def _prepare_task(spec: TaskSpec, task: ConfigurableTask, *, sizes: Sizes, seed: int) -> PreparedTask:
    metric = find_metric(task, spec.task, asked=spec.metric)
    shots = _set_fewshot(spec, task)
    documents = list(task.eval_docs)
    evaluated = str(task.config.test_split if task.has_test_docs() else task.config.validation_split)
    contents = [canonical(document) for document in documents]
    inside = shots > 0 and _fewshot_split(task) == evaluated
    examples = [] if inside or not shots else [canonical(document) for document in task.sampler.df]
    ids = shuffled_ids(contents, seed=seed, task=spec.task, excluded=examples)
    note = f" in split {evaluated!r}" + (" that are not few-shot examples" if examples else "")
    sets = split(ids, sizes, fewshot=shots if inside else 0, task=spec.task, note=note)
    if inside:
        task.sampler.replace_df([documents[identity] for identity in sets.fewshot])
    elif 0 < len(examples) < shots:
        raise TaskError(f"task {spec.task!r}: num_fewshot is {shots}, but there are {len(examples)} examples to draw")
    remember_templates(task, documents)
    return PreparedTask(
        spec=spec,
        task=task,
        metric=metric,
        documents=documents,
        available=len(ids),
        sets=sets,
        dataset_path=task.config.dataset_path,
        split=evaluated,
        num_fewshot=shots,
        benchmark=benchmark_sign(
            spec.task,
            dataset_path=task.config.dataset_path,
            data_files=(task.config.dataset_kwargs or {}).get("data_files"),
            split=evaluated,
            documents=documents,
        ),
    )


def _set_fewshot(spec: TaskSpec, task: ConfigurableTask) -> int:
    """The number of few-shot examples, set on the task; lm-eval's rule, but said instead of logged."""
    own = task.config.num_fewshot
    if spec.num_fewshot and own == 0:
        raise TaskError(
            f"task {spec.task!r}: num_fewshot is {spec.num_fewshot}, but the task's file fixes it at 0, which "
            "lm-eval keeps; leave it out here, or take it out of the task's file"
        )
    shots = int((own if spec.num_fewshot is None else spec.num_fewshot) or 0)
    task.set_config(key="num_fewshot", value=shots)
    return shots


def _fewshot_split(task: ConfigurableTask) -> str | None:
    """The split that few-shot examples come from by lm-eval's rule; None: they stand in the task's file."""
    if task.fewshot_cfg.split is not None:
        return str(task.fewshot_cfg.split)
    if task.fewshot_cfg.samples is not None:
        return None
    config = task.config
    chosen = config.training_split or config.validation_split or config.test_split
    return str(chosen) if chosen is not None else None
