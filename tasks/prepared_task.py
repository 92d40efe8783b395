"""One task loaded, checked and split, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from lm_eval.api.task import ConfigurableTask

from tasks.benchmarks import benchmark_sign
from tasks.documents import Document, DocumentSets, canonical, shuffled_ids, split
from tasks.errors import TaskError
from tasks.fewshot import fewshot_split, set_fewshot
from tasks.metric import Metric, find_metric, first_metric
from tasks.prompts import remember_templates
from tasks.request_store import Facts
from tasks.spec import PromptSettings, Sizes, TaskSpec


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


def split_task(
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
    return _prepared(spec, task, metric, documents, shots=shots, known=known)


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


def whole_task(spec: TaskSpec, task: ConfigurableTask, *, limit: int | None, prompt: PromptSettings) -> PreparedTask:
    metric = find_metric(task, spec.task, asked=spec.metric) if spec.metric else first_metric(task)
    shots = set_fewshot(spec, task, strict=False)
    _set_generation(task, prompt)
    documents = list(islice(task.eval_docs, limit))
    every = Facts(DocumentSets(all=tuple(range(len(documents)))), len(documents), None)
    return _prepared(spec, task, metric, documents, shots=shots, known=every)


def _prepared(
    spec: TaskSpec, task: ConfigurableTask, metric: Metric, documents: Sequence[Document], *, shots: int, known: Facts
) -> PreparedTask:
    remember_templates(task, documents)
    return PreparedTask(
        spec=spec,
        task=task,
        metric=metric,
        documents=documents,
        available=known.available,
        sets=known.sets,
        dataset_path=task.config.dataset_path,
        split=_evaluated_split(task),
        num_fewshot=shots,
        benchmark=known.benchmark,
    )


def _evaluated_split(task: ConfigurableTask) -> str:
    return str(task.config.test_split if task.has_test_docs() else task.config.validation_split)


def _set_generation(task: ConfigurableTask, prompt: PromptSettings) -> None:
    """As `simple_evaluate(gen_kwargs=...)` does."""
    if prompt.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(prompt.gen_kwargs), update=True)
