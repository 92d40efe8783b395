"""What a search maximises, computed from recorded measures alone: no model, no lm-eval.

Every document gets a utility, higher is better, such that a task's part of the objective is the plain mean of its
documents' utilities. Standard errors and paired intervals therefore need only know means over documents.

Perplexities and bits per byte are no means: they are g(R) of a ratio R = sum(a) / sum(b) of log-likelihoods `a` and
weights `b`. There a utility is the ratio's linearisation, u_d = g(R) + g'(R) (a_d - R b_d) / mean(b), whose mean is
g(R) and whose spread gives the delta method's standard error (Cochran, "Sampling Techniques", 1977, chapter 6).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tasks.errors import TaskError

Aggregation = Literal["mean", "perplexity", "weighted_perplexity", "bits_per_byte"]
Unit = Literal["token", "byte"]
Measures = Mapping[str, Mapping[str, Mapping[int, float]]]  # task -> measure -> document id -> value
Utilities = dict[str, dict[int, float]]  # task -> document id -> value, higher is better

LOGLIKELIHOOD = "loglikelihood"  # of the gold answer, natural logarithm
LENGTHS: dict[Unit, str] = {"token": "gold_tokens", "byte": "gold_bytes"}
DECIMALS = 12  # of a mean over tasks: what is left out is rounding
WEIGHT = "/weight"  # what a pair's second number is called, after the measure's own name


@dataclass(frozen=True)
class Goal:
    """One task's metric, named as lm-eval names it with its filter (`acc,none`), and its share of the objective."""

    task: str
    measure: str
    weight: float
    higher_is_better: bool
    aggregation: Aggregation = "mean"


@dataclass(frozen=True)
class Objective:
    """`metric` times the oriented metric plus `loglikelihood` times the gold answers' mean log-likelihood per unit,
    each document's answer divided by its own length; of the tasks, the mean weighted by their goals.
    """

    goals: tuple[Goal, ...]
    metric: float = 1.0
    loglikelihood: float = 0.0
    unit: Unit = "token"

    @property
    def is_metric(self) -> bool:
        """Whether the objective is the metric and nothing else."""
        return self.loglikelihood == 0

    @property
    def weights(self) -> dict[str, float]:
        return {goal.task: goal.weight for goal in self.goals}

    def utilities(self, measures: Measures) -> Utilities:
        """Per document its part of the objective. Raises TaskError where a measure that it needs is missing."""
        result: Utilities = {}
        for goal in self.goals:
            parts = []
            if self.metric:
                parts.append((self.metric, _metric_utilities(goal, measures[goal.task])))
            if self.loglikelihood:
                parts.append((self.loglikelihood, self._answers(goal.task, measures)))
            if any(values.keys() != parts[0][1].keys() for _, values in parts):
                raise TaskError(
                    f"task {goal.task!r}: {goal.measure!r} and the gold answers' log-likelihood are not there for the "
                    "same documents; take one of them as the objective"
                )
            result[goal.task] = {
                document: total_of(share * values[document] for share, values in parts) for document in parts[0][1]
            }
        return result

    def value(self, measures: Measures) -> float:
        """The weighted mean over tasks of their documents' mean utilities."""
        return mean_over_tasks(self.utilities(measures), self.weights)

    def normalised(self, gaps: Mapping[str, float]) -> Objective:
        """The same with every task's weight divided by its gap, so that differences count in units of the gap.

        (value - base) / gap differs from value / gap by a constant of the task only: whatever is ranked, resampled or
        tested by differences is the same with either. The weights' sum is kept.
        """
        divided = [goal.weight / gaps[goal.task] for goal in self.goals]
        scale = total_of(goal.weight for goal in self.goals) / total_of(divided)
        goals = (replace(goal, weight=scale * weight) for goal, weight in zip(self.goals, divided, strict=True))
        return replace(self, goals=tuple(goals))

    def weighed(self, weights: Mapping[str, float]) -> Objective:
        """The same with other weights of the tasks."""
        return replace(self, goals=tuple(replace(goal, weight=weights[goal.task]) for goal in self.goals))

    def oriented(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Task -> its metric as printed, turned round where lower is better."""
        signs = {goal.task: 1.0 if goal.higher_is_better else -1.0 for goal in self.goals}
        return {task: signs[task] * metrics[task] for task in signs if task in metrics}

    def metric_only(self) -> Objective:
        """The same goals, judged by the metric alone."""
        return Objective(self.goals)

    def loglikelihood_only(self) -> Objective:
        """The same tasks, judged by the gold answers' log-likelihood alone."""
        return Objective(self.goals, metric=0.0, loglikelihood=1.0, unit=self.unit)

    def metrics(self, measures: Measures) -> dict[str, float]:
        """Task -> the metric over all documents, as lm-eval aggregates and prints it."""
        return {goal.task: _aggregate(goal, measures[goal.task]) for goal in self.goals}

    def loglikelihoods(self, measures: Measures) -> dict[str, float]:
        """Task -> mean over documents of the gold answer's log-likelihood per unit; without those that have none."""
        answered = {goal.task for goal in self.goals if measures[goal.task].get(LOGLIKELIHOOD)}
        per_document = {task: self._answers(task, measures) for task in self.weights if task in answered}
        return {task: _mean(values) for task, values in per_document.items()}

    def mean_metric(self, metrics: Mapping[str, float]) -> float | None:
        """The weighted mean over tasks of the metrics as printed; None where higher is better for some tasks only."""
        if len({goal.higher_is_better for goal in self.goals}) > 1 or any(g.task not in metrics for g in self.goals):
            return None
        total = total_of(self.weights.values())
        return total_of(goal.weight * metrics[goal.task] for goal in self.goals) / total

    def _answers(self, task: str, measures: Measures) -> dict[int, float]:
        sums, lengths = measures[task].get(LOGLIKELIHOOD, {}), measures[task].get(LENGTHS[self.unit], {})
        if not sums or sums.keys() - lengths.keys():
            raise TaskError(
                f"task {task!r}: has no right answer whose log-likelihood could be taken; "
                "set score.objective to metric, or leave the task out"
            )
        # An answer may be empty: its log-likelihood is 0 then, whatever it is divided by.
        return {document: sums[document] / max(1.0, lengths[document]) for document in sorted(sums)}


def differences(ours: Utilities, theirs: Utilities) -> Utilities:
    """`ours` minus `theirs`, document by document, on those of `ours`, which `theirs` has too."""
    return {task: {each: value - theirs[task][each] for each, value in its.items()} for task, its in ours.items()}


def restricted(measures: Measures, documents: Mapping[str, Collection[int]]) -> Measures:
    """The measures of these documents of each task alone. Utilities of a ratio depend on which others there are: so
    models are compared on a part of what both met by what this leaves of either."""
    return {
        task: {name: {each: values[each] for each in values if each in ids} for name, values in measures[task].items()}
        for task, ids in ((task, set(its)) for task, its in documents.items())
    }


def mean_over_tasks(values: Mapping[str, Mapping[int, float]], weights: Mapping[str, float]) -> float:
    """The weighted mean over tasks of the means over documents; exact in whatever order documents come."""
    return weighted_mean({task: _mean(each) for task, each in values.items()}, weights)


def weighted_mean(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The mean over tasks. Those that are equal but for rounding, of other tasks' parts, are equal."""
    total = total_of(weights[task] for task in parts)
    return round(total_of(weights[task] * part for task, part in parts.items()) / total, DECIMALS)


def total_of(values: Iterable[float]) -> float:
    """The exact sum; NaN beyond what a float holds and for infinities of both signs."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan


def _mean(values: Mapping[int, float]) -> float:
    return total_of(values.values()) / len(values)


def _metric_utilities(goal: Goal, measures: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    numerators, weights = _recorded(goal, measures)
    sign = 1.0 if goal.higher_is_better else -1.0
    if goal.aggregation == "mean":
        return {document: sign * value for document, value in numerators.items()}
    ratio, size = total_of(numerators.values()) / total_of(weights.values()), _mean(weights)
    value, slope = _of_ratio(goal.aggregation, ratio)
    return {
        document: sign * (value + slope * (numerators[document] - ratio * weights[document]) / size)
        for document in numerators
    }


def _aggregate(goal: Goal, measures: Mapping[str, Mapping[int, float]]) -> float:
    numerators, weights = _recorded(goal, measures)
    # Summed in lm-eval's order of documents, so that the number is its own to the last bit.
    ratio = sum(numerators.values()) / sum(weights.values())
    return ratio if goal.aggregation == "mean" else _of_ratio(goal.aggregation, ratio)[0]


def _recorded(goal: Goal, measures: Mapping[str, Mapping[int, float]]) -> tuple[dict[int, float], dict[int, float]]:
    """(a, b) of every document in ascending order; `b` is 1 for what is averaged over documents."""
    found = measures.get(goal.measure, {})
    if not found:
        given = ", ".join(name for name in measures if not name.endswith(WEIGHT)) or "none"
        raise TaskError(
            f"task {goal.task!r}: no document has a value of {goal.measure!r} (given: {given}); "
            "name one of these as its metric"
        )
    numerators = {document: found[document] for document in sorted(found)}
    if goal.aggregation in ("mean", "perplexity"):
        return numerators, dict.fromkeys(numerators, 1.0)
    weights = measures.get(goal.measure + WEIGHT, {})
    if numerators.keys() - weights.keys():
        raise TaskError(
            f"task {goal.task!r}: {goal.measure!r} is aggregated as {goal.aggregation}, but its values are no pairs of "
            "log-likelihood and weight; see the task's process_results"
        )
    return numerators, {document: weights[document] for document in numerators}


def _of_ratio(aggregation: Aggregation, ratio: float) -> tuple[float, float]:
    """g(R) and g'(R)."""
    if aggregation == "bits_per_byte":
        return -ratio / math.log(2), -1 / math.log(2)
    try:
        perplexity = math.exp(-ratio)
    except OverflowError:
        perplexity = math.inf
    return perplexity, -perplexity
