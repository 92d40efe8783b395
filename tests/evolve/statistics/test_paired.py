"""Standard errors and intervals claim what they should: checked on data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evolve.statistics import paired as statistics
from evolve.statistics.paired import paired_difference, standard_error
from tasks.objective import mean_over_tasks

Values = dict[str, dict[int, float]]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)


def values(**tasks: object) -> Values:
    return {task: {i: float(x) for i, x in enumerate(np.asarray(scores))} for task, scores in tasks.items()}


def test_the_mean_is_weighted_over_tasks_not_documents() -> None:
    scores = values(a=[1, 1, 1, 1, 1, 1], b=[0, 0])
    assert mean_over_tasks(scores, {"a": 1.0, "b": 1.0}) == 0.5
    assert mean_over_tasks(scores, {"a": 1.0, "b": 3.0}) == 0.25
    assert mean_over_tasks(scores, {"a": 1.0, "b": 3.0, "not scored": 9.0}) == 0.25


def test_the_standard_error_is_the_formula() -> None:
    a, b = [0.0, 1.0, 1.0, 0.0, 1.0], [2.0, 5.0, 5.0]
    by_hand = math.sqrt((1 / 4) ** 2 * np.var(a, ddof=1) / 5 + (3 / 4) ** 2 * np.var(b, ddof=1) / 3)
    assert standard_error(values(a=a, b=b), {"a": 1.0, "b": 3.0}) == pytest.approx(by_hand)
    assert standard_error(values(a=a, b=b), {"a": 10.0, "b": 30.0}) == pytest.approx(by_hand)
    assert standard_error(values(a=[1.0, 1.0]), {"a": 1.0}) == 0.0
    assert standard_error(values(a=[1.0]), {"a": 1.0}) == 0.0


def test_the_standard_error_is_the_spread_of_the_mean() -> None:
    generator = np.random.default_rng(0)
    weights = {"a": 1.0, "b": 2.0}
    draws = [values(a=generator.random(30) < 0.7, b=generator.normal(size=50)) for _ in range(600)]
    spread = np.std([mean_over_tasks(draw, weights) for draw in draws])
    told = np.mean([standard_error(draw, weights) for draw in draws])
    assert told == pytest.approx(spread, rel=0.1)


def answers(generator: np.random.Generator, documents: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Two models on the same documents, some of which are hard for both; the true difference is `gain`."""
    ease = generator.uniform(0.1, 0.8, documents)
    dice = generator.random(documents)
    fresh = np.where(generator.random(documents) < 0.7, dice, generator.random(documents))
    return dice < ease + gain, fresh < ease


@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_the_interval_covers_the_truth_about_95_times_in_100(gain: float) -> None:
    generator, covered, above, runs = np.random.default_rng(1), 0, 0, 400
    weights = {"a": 1.0, "b": 1.0}
    for run in range(runs):
        pairs = {task: answers(generator, 80, gain) for task in weights}
        ours, theirs = (values(**{task: pair[side] for task, pair in pairs.items()}) for side in (0, 1))
        difference = paired_difference(ours, theirs, weights, seed=run)
        assert difference.low <= difference.mean <= difference.high
        covered += difference.low <= gain <= difference.high
        above += difference.low > 0
    assert 0.91 <= covered / runs <= 0.985
    if gain == 0.0:
        assert above / runs <= 0.055  # one side of the interval: 2.5 % are due


def differing(generator: np.random.Generator, documents: int, share: float, gain: float) -> np.ndarray:
    """Differences of right-or-wrong answers, 1, -1 and mostly 0."""
    dice = generator.random(documents)
    return (dice < (share + gain) / 2).astype(float) - (dice > 1 - (share - gain) / 2)


@pytest.mark.parametrize(("documents", "tasks"), [(16, 1), (16, 3), (64, 5)])
def test_the_interval_holds_where_few_documents_differ(documents: int, tasks: int) -> None:
    generator, covered, plain, runs = np.random.default_rng(11), 0, 0, 300
    weights, share, gain = dict.fromkeys("abcde"[:tasks], 1.0), 0.1, 0.08
    for run in range(runs):
        gaps = {task: differing(generator, documents, share, gain) for task in weights}
        ours = values(**{task: np.where(gap > 0, 1, 0) for task, gap in gaps.items()})
        theirs = values(**{task: np.where(gap < 0, 1, 0) for task, gap in gaps.items()})
        difference = paired_difference(ours, theirs, weights, seed=run)
        covered += difference.low <= gain <= difference.high
        resampled = statistics.resampled_means(statistics.paired(ours, theirs, weights), np.random.default_rng(run))
        low, high = np.quantile(resampled, [0.025, 0.975])
        plain += bool(low <= gain <= high)
    assert covered / runs >= 0.93
    assert plain / runs < 0.93 or documents == 64, "else the stretch buys nothing"


def test_a_gain_is_rarely_claimed_where_there_is_none() -> None:
    """Five models that differ from the base by chance only: the winner's interval lies above zero against them all."""
    generator, claimed, runs = np.random.default_rng(12), 0, 400
    weights = {"a": 1.0, "b": 1.0}

    def model(base: Values) -> Values:
        return {
            task: {i: float(generator.random() < 0.5) if generator.random() < 0.1 else x for i, x in each.items()}
            for task, each in base.items()
        }

    for run in range(runs):
        base = values(**{task: generator.random(60) < 0.5 for task in weights})
        winner = model(base)
        claimed += all(
            paired_difference(winner, other, weights, run).low > 0 for other in (base, *(model(base) for _ in range(4)))
        )
    assert claimed / runs <= 0.02, "one side of one comparison is 2.5 %; all of them together are rarer"


def test_the_same_answers_to_few_documents_do_not_prove_models_equal() -> None:
    alike = values(a=[1.0, 0.0] * 8)
    few = paired_difference(alike, alike, {"a": 1.0}, 0)
    assert few.mean == 0.0
    assert few.low == -few.high
    assert 0.05 < few.high < 0.25
    many = values(a=[1.0, 0.0] * 500)
    assert 0.001 < paired_difference(many, many, {"a": 1.0}, 0).high < 0.004


def test_bounds_are_differences_that_there_can_be() -> None:
    few = paired_difference(values(a=[1.0] * 5), values(a=[0.0] * 4 + [1.0]), {"a": 1.0}, 0)
    assert (few.mean, few.high) == (0.8, 1.0)
    far = paired_difference(values(a=[30.0, 40.0]), values(a=[0.0, 20.0]), {"a": 1.0}, 0)  # of what has no bound
    assert far.high > 25.0 + 5.0


@pytest.mark.parametrize(("freedom", "quantile"), [(8, 2.3060), (15, 2.1314), (60, 2.0003), (math.inf, 1.95996)])
def test_students_quantile(freedom: float, quantile: float) -> None:
    assert statistics.t_quantile(freedom) == pytest.approx(quantile, abs=6e-4)


def test_clearly_below_is_in_standard_errors_of_the_paired_difference() -> None:
    ours, theirs = values(a=[0.0] * 40 + [1.0] * 60), values(a=[1.0] * 10 + [0.0] * 30 + [1.0] * 60)
    error = math.sqrt((10 * 0.9**2 + 90 * 0.1**2 + 1) / 99 / 100)
    assert statistics.clearly_below(ours, theirs, {"a": 1.0}, 0.99 * 0.1 / error)
    assert not statistics.clearly_below(ours, theirs, {"a": 1.0}, 1.01 * 0.1 / error)
    assert not statistics.clearly_below(theirs, ours, {"a": 1.0}, 0.0)


def test_equal_models_are_never_told_apart() -> None:
    ours = values(a=np.random.default_rng(2).random(40))
    for seed in range(20):
        difference = paired_difference(ours, ours, {"a": 1.0}, seed)
        assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(3)
    hardness = generator.normal(size=200)
    ours, theirs = (values(a=hardness + 0.1 * generator.normal(size=200)) for _ in range(2))
    paired = paired_difference(ours, theirs, {"a": 1.0}, seed=0)
    unpaired = 2 * 1.96 * math.hypot(standard_error(ours, {"a": 1.0}), standard_error(theirs, {"a": 1.0}))
    assert paired.high - paired.low < unpaired / 3


def test_the_interval_is_that_of_the_paired_standard_error() -> None:
    generator = np.random.default_rng(4)
    ours, theirs = values(a=generator.normal(size=150), b=generator.normal(size=60)), values(a=[0] * 150, b=[0] * 60)
    weights = {"a": 1.0, "b": 4.0}
    difference = paired_difference(ours, theirs, weights, seed=0)
    assert difference.mean == pytest.approx(mean_over_tasks(ours, weights))
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * standard_error(ours, weights), rel=0.12)


def test_weights_decide_between_tasks() -> None:
    generator = np.random.default_rng(5)
    better, worse = 1 + generator.normal(size=50) / 9, -1 + generator.normal(size=50) / 9
    ours, theirs = values(a=better, b=worse), values(a=[0] * 50, b=[0] * 50)
    assert paired_difference(ours, theirs, {"a": 5.0, "b": 1.0}, 0).low > 0
    assert paired_difference(ours, theirs, {"a": 1.0, "b": 5.0}, 0).high < 0


def test_a_seed_gives_one_interval_whatever_the_order_of_documents() -> None:
    ours = values(a=np.random.default_rng(6).random(30))
    theirs = values(a=[0.5] * 30)
    one = paired_difference(ours, theirs, {"a": 1.0}, 7)
    assert one == paired_difference(ours, theirs, {"a": 1.0}, 7)
    assert one != paired_difference(ours, theirs, {"a": 1.0}, 8)
    turned = {"a": dict(reversed(theirs["a"].items()))}
    assert one == paired_difference(ours, turned, {"a": 1.0}, 7)


def test_other_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="a: the two models were scored on different documents"):
        paired_difference(values(a=[1, 2, 3]), values(a=[1, 2]), {"a": 1.0}, 0)


@settings(max_examples=50, deadline=None)
@example([(0.0, 0.0), (0.0, 3.463426845836384e-101)])
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=20))
def test_turning_the_comparison_turns_its_sign(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = values(a=[a for a, _ in pairs]), values(a=[b for _, b in pairs])
    there, back = (paired_difference(x, y, {"a": 1.0}, 0) for x, y in ((ours, theirs), (theirs, ours)))
    assert there.mean == pytest.approx(-back.mean, abs=1e-9)
    assert there.low == pytest.approx(-back.high, abs=1e-6)
