"""A group's or tag's share of the objective, divided among its tasks as lm-eval averages them."""

from __future__ import annotations

from dataclasses import replace

from lm_eval.api.task import ConfigurableTask

from tasks.load import Loaded
from tasks.spec import TaskSpec


def spread(spec: TaskSpec, loaded: Loaded, *, limit: int | None) -> list[tuple[TaskSpec, ConfigurableTask]]:
    """A spec for each task, their weights adding up to that of `spec`.

    The parts are proportional to the numbers of documents (at most `limit` of each) where the group's aggregation of
    the metric has `weight_by_size`, else equal.
    """
    metric = spec.metric.partition(",")[0].strip() if spec.metric else None
    sizes = [1] * len(loaded.tasks)
    if loaded.by_size(metric):
        sizes = [min(len(task.eval_docs), limit or len(task.eval_docs)) for task in loaded.tasks]
    return [
        (replace(spec, task=str(task.config.task), weight=spec.weight * size / sum(sizes)), task)
        for task, size in zip(loaded.tasks, sizes, strict=True)
    ]
