"""From answers to measures: lm-eval's own filters and `process_results`, one document at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.errors import NotFinite, TaskError
from tasks.prepared_task import PreparedTask
from tasks.prompts import DocumentRequests

Measures = dict[str, dict[int, float]]  # measure -> document id -> value


class Judge:
    """One task's judge. Text is judged once: candidates often write what the one before them wrote."""

    def __init__(self, task: PreparedTask) -> None:
        self._task = task
        self._seen: dict[tuple[str, int], tuple[list[Any], Mapping[str, Any]]] = {}

    def measures(self, documents: Sequence[DocumentRequests]) -> Measures:
        """Every metric after every filter, of documents whose instances hold the model's answers in `resps`.

        Pairs (a, b) become two measures, the second with `/weight`; what is neither number nor pair is left out.
        Raises TaskError where the task's own code fails or its metric is missing, NotFinite where that is NaN.
        """
        measures: Measures = {}
        if not documents:
            return measures
        for pipeline in self._task.task._filters:
            with told(self._task.spec.task, "its filters fail"):
                pipeline.apply([instance for document in documents for instance in document.instances])
            for document in documents:
                judged = self._judged(pipeline.name, document)
                for metric, value in judged.items():
                    for name, number in numbers(f"{metric},{pipeline.name}", value):
                        measures.setdefault(name, {})[document.id] = number
        self._check(measures, documents)
        return measures

    def _judged(self, pipeline: str, document: DocumentRequests) -> Mapping[str, Any]:
        answers = [instance.filtered_resps[pipeline] for instance in document.instances]
        key = (pipeline, document.id)
        if key in self._seen and self._seen[key][0] == answers:
            return self._seen[key][1]
        with told(self._task.spec.task, f"document {document.id} cannot be judged"):
            judged: Mapping[str, Any] = self._task.task.process_results(document.document, answers)
        if all(isinstance(answer, str) for answer in answers):
            self._seen[key] = (answers, judged)
        return judged

    def _check(self, measures: Measures, documents: Sequence[DocumentRequests]) -> None:
        """Whether the metric that was asked for is a number for every document."""
        metric = self._task.metric
        if metric.aggregation is None:
            return
        values = measures.get(str(metric), {})
        for document in documents:
            where = f"task {self._task.spec.task!r}: document {document.id}"
            if document.id not in values:
                given = ", ".join(measures) or "none"
                raise TaskError(
                    f"{where}: no number for {str(metric)!r} (given: {given}); see the task's process_results, or use "
                    "another metric"
                )
            if math.isnan(values[document.id]):
                raise NotFinite(f"{where}: {metric.name!r} is NaN; the model's answers are broken")


@contextmanager
def told(task: str, what: str) -> Iterator[None]:
    """Errors of a task's own code, told with where they came from."""
    try:
        yield
    except (TaskError, MemoryError):
        raise
    except Exception as error:  # a task's file may hold any code
        cause = str(error).strip().partition("\n")[0]
        raise TaskError(f"task {task!r}: {what} ({type(error).__name__}: {cause}); see the task's file") from error


def numbers(name: str, value: Any) -> list[tuple[str, float]]:
    """The measures that a value of `process_results` gives."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_number, value)):
        return [(name, float(value[0])), (f"{name}/weight", float(value[1]))]
    return [(name, float(value))] if is_number(value) else []


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0)
