"""Which number of a task is meant: lm-eval's metric and filter, found by the name that lm-eval prints."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api import metrics, registry
from lm_eval.api.task import ConfigurableTask

from tasks.errors import UnknownMetric, did_you_mean
from tasks.objective import Aggregation

# What is computed from one number, or one pair of numbers, a document: only there can an uncertainty be given.
AGGREGATIONS: Mapping[Callable[..., Any], Aggregation] = {
    metrics.mean: "mean",
    metrics.perplexity: "perplexity",
    metrics.weighted_perplexity: "weighted_perplexity",
    metrics.bits_per_byte: "bits_per_byte",
}


@dataclass(frozen=True)
class Metric:
    """A metric of one task: its name, the filter it is taken after, and which direction is good.

    `aggregation` is how lm-eval makes one number of all documents'; None: by a function that needs all at once (f1,
    mcc, bleu ...), which `evolve score` can print and a search cannot use.
    """

    name: str
    filter: str
    higher_is_better: bool
    aggregation: Aggregation | None = "mean"

    def __str__(self) -> str:
        return f"{self.name},{self.filter}"


def check_metric_list(config: Mapping[str, Any]) -> None:
    """Raise UnknownMetric for a metric or an aggregation of the task's file that lm-eval does not have, nor the
    `evaluate` library, which it asks next."""
    listed = config.get("metric_list") or []
    for entry in listed if isinstance(listed, list) else []:
        name = entry.get("metric") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):  # a function, or what lm-eval refuses by itself
            continue
        if name not in registry.metric_registry or entry.get("hf_evaluate"):
            check_published(name)
        if config.get("process_results") is None and name not in registry.metric_registry and not _evaluated(entry):
            known = sorted(registry.metric_registry)
            hint = did_you_mean(name, known)
            raise UnknownMetric(f"metric_list: there is no metric {name!r}{hint}; lm-eval has {', '.join(known)}")
        how = entry.get("aggregation")
        known = sorted(registry.aggregation_registry)
        if isinstance(how, str) and how not in known:
            hint = did_you_mean(how, known)
            raise UnknownMetric(
                f"metric_list: {name}: there is no aggregation {how!r}{hint}; lm-eval has {', '.join(known)}"
            )
        if "aggregation" not in entry and registry.get_metric_aggregation(name) is None:
            raise UnknownMetric(f"metric_list: {name}: has no aggregation; give it one, such as `aggregation: mean`")


def check_published(name: str) -> None:
    """Raise UnknownMetric for what the `evaluate` library would take for a file, or for anybody's repository.

    It runs a metric's code: only that of its own collection (huggingface.co/evaluate-metric) is let, which plain names
    stand for, unless something of the name lies in the working folder, which would come first.
    """
    if not re.fullmatch(r"\w+", name) or Path(name).exists():
        raise UnknownMetric(
            f"metric_list: {name!r} would run code from outside of the task's folder; name a metric of lm-eval's or "
            "evaluate's, or give `!function` a file beside the task's"
        )


def _evaluated(entry: Mapping[str, Any]) -> bool:
    """Whether the `evaluate` library has the metric; lm-eval's own line about one that it does not have is held."""
    logger = logging.getLogger(registry.__name__)
    logger.disabled = True
    try:
        return registry.get_metric(entry["metric"], entry.get("hf_evaluate") is True) is not None
    finally:
        logger.disabled = False


def filter_names(task: ConfigurableTask) -> tuple[str, ...]:
    """Names of the task's filter pipelines, in its order; `none` is lm-eval's for no filter."""
    return tuple(ensemble.name for ensemble in task._filters)


def all_metrics(task: ConfigurableTask) -> tuple[Metric, ...]:
    """Every metric of the task after every filter, in the task's order: the rows that lm-eval prints."""
    directions = task.higher_is_better()
    return tuple(
        Metric(name, chosen, bool(directions.get(name, True)), AGGREGATIONS.get(aggregation))
        for chosen in filter_names(task)
        for name, aggregation in task.aggregation().items()
    )


def usable_metrics(task: ConfigurableTask) -> tuple[str, ...]:
    """The metrics of the task that a search can use, by name."""
    return tuple(dict.fromkeys(metric.name for metric in all_metrics(task) if metric.aggregation))


def first_metric(task: ConfigurableTask) -> Metric:
    """The task's first metric that a search could use, else its first. Raises UnknownMetric if it has none."""
    known = all_metrics(task)
    if not known:
        raise UnknownMetric(f"task {task.config.task!r}: has no metric; give its file a metric_list")
    return next((metric for metric in known if metric.aggregation), known[0])


def find_metric(task: ConfigurableTask, name: str, *, asked: str) -> Metric:
    """The metric that `asked` means (`acc`, or `exact_match,strict-match` with a filter) of the task `name`.

    Raises UnknownMetric when there is none, when there is no such filter, or when its aggregation is not
    one of AGGREGATIONS: a report needs a value per document.
    """
    metric, _, chosen = (part.strip() for part in asked.partition(","))
    known, usable = tuple(task.aggregation()), usable_metrics(task)
    shown = ", ".join(usable) or "none"
    if metric not in known:
        hint = did_you_mean(metric, known) or "; name one of the task's"
        raise UnknownMetric(f"task {name!r}: has no metric {metric!r}{hint} (those that can be used: {shown})")
    if metric not in usable:
        raise UnknownMetric(
            f"task {name!r}: metric {metric!r} is neither a mean nor a perplexity over documents, and no uncertainty "
            f"can be given for it; use one that is ({shown})"
        )
    filters = filter_names(task)
    if chosen and chosen not in filters:
        hint = did_you_mean(chosen, filters) or "; name one of the task's"
        raise UnknownMetric(f"task {name!r}: has no filter {chosen!r}{hint} (its filters: {', '.join(filters)})")
    chosen = chosen or ("none" if "none" in filters else filters[0])
    return next(each for each in all_metrics(task) if (each.name, each.filter) == (metric, chosen))
