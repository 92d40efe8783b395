"""Metrics that are computed from all documents at once (f1, mcc, bleu, a task's own): lm-eval's aggregation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.errors import TaskError
from tasks.metric import all_metrics
from tasks.prepared import Prepared
from tasks.prepared_task import PreparedTask
from tasks.prompts import DocumentRequests
from tasks.spec import SetName


def aggregates(prepared: Prepared, which: SetName) -> dict[str, dict[str, float]]:
    """Task -> measure -> value, of the metrics that have no number for each document.

    The set must just have been scored: the answers are those that its requests hold. Raises TaskError where the
    task's own code fails.
    """
    return {name: _of_task(task, prepared.requests(which)[name]) for name, task in prepared.tasks.items()}


def _of_task(each: PreparedTask, documents: Sequence[DocumentRequests]) -> dict[str, float]:
    wanted = [metric for metric in all_metrics(each.task) if metric.aggregation is None]
    aggregations = each.task.aggregation() if wanted else {}
    judged = {name: _judged(each, documents, name) for name in dict.fromkeys(metric.filter for metric in wanted)}
    found = {}
    for metric in wanted:
        values = [one[metric.name] for one in judged[metric.filter] if metric.name in one]
        if not values:
            continue
        try:
            found[str(metric)] = float(aggregations[metric.name](values))
        except (
            Exception
        ) as error:  # any code may stand in a task's file, and libraries of metrics refuse what they like
            cause = str(error).strip().partition("\n")[0]
            raise TaskError(
                f"task {each.spec.task!r}: {metric.name!r} cannot be aggregated ({type(error).__name__}: {cause}); see "
                "the task's metric_list"
            ) from error
    return found


def _judged(each: PreparedTask, documents: Sequence[DocumentRequests], name: str) -> list[Any]:
    return [
        each.task.process_results(one.document, [instance.filtered_resps[name] for instance in one.instances])
        for one in documents
    ]
