"""What measures of several models on the same documents say: values, standard errors, differences to one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolve.statistics.paired import Difference, Values, paired_difference, standard_error
from tasks.errors import UnknownMetric, did_you_mean
from tasks.objective import Goal, Measures, Objective, Unit, mean_over_tasks

LOGLIKELIHOOD = "log-likelihood"  # of the right answer, a mean over documents of its value per token or byte
SEED = 0  # of the bootstrap


@dataclass(frozen=True)
class Value:
    """A number as lm-eval prints it, with its standard error (None: there is none to be had), and how much
    it is above that of the model which all are compared with, on the same documents (None: this is the one)."""

    value: float
    standard_error: float | None
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """A model's values: task -> measure -> value; `mean`, where there are several tasks, over their first metrics."""

    tasks: Mapping[str, Mapping[str, Value]]
    mean: Value | None


def in_order(goals: Sequence[Goal], wanted: Sequence[str]) -> tuple[Goal, ...]:
    """The goals, those that `wanted` names (`acc` or `acc,none`) before the others of their task.

    Raises UnknownMetric for a name that no task has.
    """
    known = dict.fromkeys(name for goal in goals for name in (goal.measure, goal.measure.partition(",")[0]))
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known)
            have = "; ".join(f"{task}: {', '.join(names)}" for task, names in _names(goals).items())
            raise UnknownMetric(f"--metric ({name}): no task has it{hint} ({have}); name one of these")

    def rank(goal: Goal) -> int:
        places = [i for i, name in enumerate(wanted) if name in (goal.measure, goal.measure.partition(",")[0])]
        return places[0] if places else len(wanted)

    tasks = list(_names(goals))
    return tuple(sorted(goals, key=lambda goal: (tasks.index(goal.task), rank(goal))))


def first_goals(goals: Sequence[Goal]) -> tuple[Goal, ...]:
    """Of each task the goal that stands first."""
    first: dict[str, Goal] = {}
    for goal in goals:
        first.setdefault(goal.task, goal)
    return tuple(first.values())


def compare(
    goals: Sequence[Goal],
    unit: Unit,
    ours: Measures,
    against: Measures | None,
    aggregates: Mapping[str, Mapping[str, float]],
) -> Comparison:
    """`ours`, and its differences to `against`, scored on the same documents. Goals without values are left out.

    `aggregates`: task -> measure -> value, of metrics of all documents at once: they have no error and no difference.
    """
    tasks: dict[str, dict[str, Value]] = {}
    for goal in goals:
        if ours[goal.task].get(goal.measure):
            tasks.setdefault(goal.task, {})[goal.measure] = _metric(goal, ours, against)
    for task, numbers in aggregates.items():
        for name, number in numbers.items():
            tasks.setdefault(task, {})[name] = Value(number, None, None)
    for task in ours:
        answers = Objective((Goal(task, "", 1.0, True),), metric=0.0, loglikelihood=1.0, unit=unit)
        if answers.loglikelihoods(ours):
            theirs = None if against is None else answers.utilities(against)
            tasks.setdefault(task, {})[LOGLIKELIHOOD] = _value(answers.utilities(ours), theirs, {task: 1.0})
    return Comparison(tasks, _mean(first_goals(goals), ours, against))


def _metric(goal: Goal, ours: Measures, against: Measures | None) -> Value:
    objective = Objective((goal,))
    number = objective.metrics(ours)[goal.task]
    if not math.isfinite(number):
        return Value(number, None, None)
    theirs = None if against is None else objective.utilities(against)
    value = _value(objective.utilities(ours), theirs, {goal.task: 1.0})
    gap = value.difference
    if gap is not None and not goal.higher_is_better:
        gap = Difference(-gap.mean, -gap.high, -gap.low)
    return Value(number, value.standard_error, gap)


def _mean(goals: Sequence[Goal], ours: Measures, against: Measures | None) -> Value | None:
    """The weighted mean over tasks; None where the metrics are unlike, or a task has no values."""
    if len(goals) < 2 or not _alike(goals) or any(not ours[goal.task].get(goal.measure) for goal in goals):
        return None
    objective = Objective(tuple(goals))
    theirs = None if against is None else objective.utilities(against)
    value = _value(objective.utilities(ours), theirs, objective.weights)
    alike = objective.mean_metric(objective.metrics(ours))
    if alike is None or goals[0].higher_is_better:
        return value
    gap = value.difference
    return Value(alike, value.standard_error, gap and Difference(-gap.mean, -gap.high, -gap.low))


def _alike(goals: Sequence[Goal]) -> bool:
    """Whether a mean over the metrics says anything: shares with shares, perplexities with those per the same unit."""
    kinds = {(goal.aggregation, goal.higher_is_better) for goal in goals}
    names = {goal.measure.partition(",")[0] for goal in goals}
    return len(kinds) == 1 and (goals[0].aggregation == "mean" or len(names) == 1)


def _value(ours: Values, theirs: Values | None, weights: Mapping[str, float]) -> Value:
    value = mean_over_tasks(ours, weights)
    if not math.isfinite(value):
        return Value(value, None, None)
    several = all(len(each) > 1 for each in ours.values())
    finite = theirs is not None and math.isfinite(mean_over_tasks(theirs, weights))
    gap = paired_difference(ours, theirs, weights, SEED) if theirs is not None and finite else None
    return Value(value, standard_error(ours, weights) if several else None, gap)


def _names(goals: Sequence[Goal]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for goal in goals:
        names.setdefault(goal.task, []).append(goal.measure)
    return names
