"""The objective: lm-eval's own aggregates, and utilities whose mean and spread are those of the aggregate."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api import metrics as stock

from tasks.errors import TaskError
from tasks.objective import Aggregation, Goal, Measures, Objective, mean_over_tasks

AGGREGATIONS = get_args(Aggregation)
ROOT = Path(__file__).parents[2]
pairs = st.lists(st.tuples(st.floats(-60, -0.01), st.integers(1, 80)), min_size=1, max_size=30)


def measures(values: list[tuple[float, int]], answered: bool = True) -> Measures:
    """One task `t` whose documents have log-likelihoods and lengths, numbered from 5."""
    numbered = dict(enumerate(values, start=5))
    found = {
        "m,none": {document: a for document, (a, _) in numbered.items()},
        "m,none/weight": {document: float(b) for document, (_, b) in numbered.items()},
    }
    if answered:
        found["loglikelihood"] = {document: 2 * a for document, (a, _) in numbered.items()}
        found["gold_tokens"] = {document: float(b) for document, (_, b) in numbered.items()}
        found["gold_bytes"] = {document: 4.0 * b for document, (_, b) in numbered.items()}
    return {"t": found}


def goal(aggregation: Aggregation, higher: bool = True, task: str = "t", weight: float = 1.0) -> Goal:
    return Goal(task, "m,none", weight, higher, aggregation)


@given(pairs)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_metrics_are_lm_evals_to_the_last_bit(aggregation: Aggregation, values: list[tuple[float, int]]) -> None:
    items = [a for a, _ in values] if aggregation in ("mean", "perplexity") else values
    expected = getattr(stock, aggregation)(items)
    assert Objective((goal(aggregation),)).metrics(measures(values)) == {"t": expected}


@given(pairs, st.sampled_from(AGGREGATIONS), st.booleans())
def test_the_mean_utility_is_the_oriented_metric(
    values: list[tuple[float, int]], aggregation: Aggregation, higher: bool
) -> None:
    objective = Objective((goal(aggregation, higher),))
    found = measures(values)
    sign = 1 if higher else -1
    expected = sign * objective.metrics(found)["t"]
    assert objective.value(found) == pytest.approx(expected, rel=1e-9)
    assert list(objective.utilities(found)["t"]) == list(range(5, 5 + len(values)))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_spread_of_utilities_is_that_of_the_metric(aggregation: Aggregation) -> None:
    """The delta method's standard error against a bootstrap of the metric itself."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 60, size=300)
    totals = -lengths * generator.uniform(0.5, 1.5, size=300) + generator.normal(size=300)
    if aggregation == "perplexity":
        totals = totals / 20
    items = list(zip(totals.tolist(), lengths.tolist(), strict=True))
    found = Objective((goal(aggregation),)).utilities(measures(items))["t"]
    told = np.std(list(found.values()), ddof=1) / math.sqrt(300)
    single = aggregation in ("mean", "perplexity")
    drawn = [
        getattr(stock, aggregation)([items[i][0] if single else items[i] for i in generator.integers(300, size=300)])
        for _ in range(2000)
    ]
    assert told == pytest.approx(np.std(drawn), rel=0.06)


def test_paired_differences_of_utilities_are_those_of_the_metric() -> None:
    """Two models on the same texts: the spread of the difference is found by resampling documents for both."""
    generator = np.random.default_rng(1)
    lengths = generator.integers(5, 60, size=400).tolist()
    hardness = generator.uniform(0.5, 1.5, size=400)
    ours, theirs = (
        [(-b * h + e, b) for b, h, e in zip(lengths, hardness, generator.normal(size=400), strict=True)]
        for _ in range(2)
    )
    objective = Objective((goal("weighted_perplexity", higher=False),))
    one, other = (objective.utilities(measures(each))["t"] for each in (ours, theirs))
    told = np.std([one[document] - other[document] for document in one], ddof=1) / 20
    drawn = []
    for _ in range(2000):
        ids = generator.integers(400, size=400)
        drawn.append(
            stock.weighted_perplexity([theirs[i] for i in ids]) - stock.weighted_perplexity([ours[i] for i in ids])
        )
    assert told == pytest.approx(np.std(drawn), rel=0.08)


@given(pairs)
def test_the_order_of_documents_changes_no_bit(values: list[tuple[float, int]]) -> None:
    found = measures(values)
    shuffled = {"t": {name: dict(reversed(each.items())) for name, each in found["t"].items()}}
    objective = Objective((goal("bits_per_byte", higher=False),), metric=1.0, loglikelihood=0.3)
    assert objective.value(found) == objective.value(shuffled)
    assert objective.metrics(found) == objective.metrics(shuffled)
    assert objective.utilities(found) == objective.utilities(shuffled)


def test_the_log_likelihood_is_a_mean_of_each_documents_own_units() -> None:
    found = measures([(-4.0, 2), (-9.0, 3)])
    for unit, expected in (("token", (-4.0 + -6.0) / 2), ("byte", (-1.0 + -1.5) / 2)):
        objective = Objective((goal("mean"),), metric=0.0, loglikelihood=1.0, unit=unit)  # type: ignore[arg-type]
        assert objective.value(found) == expected
        assert objective.loglikelihoods(found) == {"t": expected}


def test_a_mix_is_the_declared_sum_also_where_the_metric_should_fall() -> None:
    found = measures([(-4.0, 2), (-9.0, 3)])
    mixed = Objective((goal("mean", higher=False),), metric=2.0, loglikelihood=0.5)
    assert mixed.value(found) == 2.0 * 6.5 + 0.5 * -5.0
    assert mixed.metric_only().value(found) == 6.5
    assert mixed.loglikelihood_only().value(found) == -5.0


def test_tasks_are_weighted() -> None:
    found = {"t": measures([(1.0, 1)])["t"], "u": measures([(0.0, 1), (0.0, 1)])["t"]}
    objective = Objective((goal("mean", weight=3.0), goal("mean", task="u")))
    assert objective.value(found) == 0.75
    assert objective.mean_metric(objective.metrics(found)) == 0.75
    assert mean_over_tasks({"u": {1: 1.0, 2: 2.0}}, objective.weights) == 1.5


def test_no_mean_is_made_of_metrics_of_both_directions_or_of_tasks_that_are_missing() -> None:
    objective = Objective((goal("mean"), goal("mean", higher=False, task="u")))
    assert objective.mean_metric({"t": 0.5, "u": 0.5}) is None
    assert Objective((goal("mean"),)).mean_metric({}) is None
    assert Objective((goal("mean", higher=False),)).mean_metric({"t": 0.25}) == 0.25


def test_a_task_without_answers_has_no_log_likelihood_and_cannot_be_judged_by_it() -> None:
    found = measures([(0.5, 1)], answered=False)
    objective = Objective((goal("mean"),), loglikelihood=0.1)
    assert objective.loglikelihoods(found) == {}
    assert Objective((goal("mean"),)).value(found) == 0.5
    with pytest.raises(TaskError, match="task 't': has no right answer"):
        objective.value(found)


def test_missing_measures_are_named_with_those_there_are() -> None:
    found = measures([(0.5, 1)])
    with pytest.raises(TaskError, match=r"task 't': no document has a value of 'acc,none' \(given: m,none, "):
        Objective((Goal("t", "acc,none", 1.0, True),)).value(found)
    single = {"t": {"m,none": {1: 0.5}}}
    with pytest.raises(TaskError, match="its values are no pairs"):
        Objective((goal("bits_per_byte"),)).value(single)
    uneven = {"t": {**found["t"], "m,none": {**found["t"]["m,none"], 99: 1.0}}}
    with pytest.raises(TaskError, match="not there for the same documents"):
        Objective((goal("mean"),), loglikelihood=1.0).value(uneven)


def test_a_perplexity_that_overflows_is_not_finite() -> None:
    objective = Objective((goal("weighted_perplexity", higher=False),))
    assert objective.metrics(measures([(-1e6, 1)])) == {"t": math.inf}
    assert not math.isfinite(objective.value(measures([(-1e6, 1), (-2e6, 1)])))
    near = [(-709.5 - i / 1000, 1) for i in range(40)]  # a float holds each of these perplexities, not their sum
    assert not math.isfinite(objective.value(measures(near)))
    mixed = Objective((goal("weighted_perplexity", higher=True),), metric=1.0, loglikelihood=1.0)
    assert not math.isfinite(mixed.value(measures([(-math.inf, 1), (-2e6, 1)])))


def test_neither_torch_nor_lm_eval_is_needed() -> None:
    script = "import sys, tasks.objective; print([name for name in ('torch', 'lm_eval') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
