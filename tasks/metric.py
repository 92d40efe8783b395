"""Which number of a task is meant: lm-eval's metric and filter, found by the name that lm-eval prints."""

from __future__ import annotations

from dataclasses import dataclass

from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from tasks.errors import UnknownMetric, did_you_mean


@dataclass(frozen=True)
class Metric:
    """A metric of one task: its name, the filter it is taken after, and which direction is good."""

    name: str
    filter: str
    higher_is_better: bool

    def __str__(self) -> str:
        return f"{self.name},{self.filter}"


def filter_names(task: ConfigurableTask) -> tuple[str, ...]:
    """Names of the task's filter pipelines, in its order; `none` is lm-eval's for no filter."""
    return tuple(ensemble.name for ensemble in task._filters)


def mean_metrics(task: ConfigurableTask) -> tuple[str, ...]:
    """The metrics of the task that are a plain mean over documents."""
    return tuple(name for name, aggregation in task.aggregation().items() if aggregation is mean)


def find_metric(task: ConfigurableTask, name: str, *, asked: str) -> Metric:
    """The metric that `asked` means (`acc`, or `exact_match,strict-match` with a filter) of the task `name`.

    Raises UnknownMetric when there is none, when there is no such filter, or when its aggregation is not
    the mean: a report needs a value per document.
    """
    metric, _, chosen = (part.strip() for part in asked.partition(","))
    known, means = tuple(task.aggregation()), mean_metrics(task)
    usable = ", ".join(means) or "none"
    if metric not in known:
        hint = did_you_mean(metric, known) or "; name one of the task's"
        raise UnknownMetric(f"task {name!r}: has no metric {metric!r}{hint} (those with a mean: {usable})")
    if metric not in means:
        raise UnknownMetric(
            f"task {name!r}: metric {metric!r} is not a mean over documents, and no uncertainty can be given "
            f"for it; use one that is ({usable})"
        )
    filters = filter_names(task)
    if chosen and chosen not in filters:
        hint = did_you_mean(chosen, filters) or "; name one of the task's"
        raise UnknownMetric(f"task {name!r}: has no filter {chosen!r}{hint} (its filters: {', '.join(filters)})")
    default = "none" if "none" in filters else filters[0]
    return Metric(metric, chosen or default, bool(task.higher_is_better().get(metric, True)))
