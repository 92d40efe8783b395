"""What is climbed of a document, and that its derivatives are its differences."""

from __future__ import annotations

import math

import pytest

from tasks.encoding import Encoded
from tasks.objective import Goal, Objective
from tasks.slope_question import LONG, Question, parts_of

STEP = 1e-6


def question(
    right: tuple[bool, ...],
    parts: tuple[float, float],
    *,
    sizes: tuple[float, ...] = (),
    tokens: int = 2,
    rolling: bool = False,
) -> Question:
    requests: list[Encoded] = [((1,), (place,) * tokens) for place in range(len(right))]
    lengths = tuple(tokens if each else 0 for each in right)
    return Question("t", 0, tuple(requests), right, sizes or (1.0,) * len(right), lengths, parts, rolling)


CASES = [
    question((True,), (1.0, 0.0)),
    question((True,), (1.0, 0.0), tokens=100),
    question((True, True), (0.7, 0.3)),
    question((False, True, False), (1.0, 0.0)),
    question((False, True, True), (0.5, 0.5), sizes=(3.0, 5.0, 9.0)),
    question((True, True), (0.0, 1.0), rolling=True),
    question((True, False), (0.0, 1.0)),
]


@pytest.mark.parametrize("asked", CASES)
def test_derivatives_are_the_differences(asked: Question) -> None:
    totals = [-1.3, -2.1, -0.4][: len(asked.requests)]
    _, slopes = asked.value(totals)
    for place, slope in enumerate(slopes):
        up, down = (
            asked.value([total + sign * STEP * (i == place) for i, total in enumerate(totals)])[0] for sign in (1, -1)
        )
        assert slope == pytest.approx((up - down) / (2 * STEP), abs=1e-8)


def test_the_chance_of_choices_is_the_right_ones_share() -> None:
    value, slopes = question((False, True), (1.0, 0.0)).value([math.log(0.1), math.log(0.3)])
    assert value == pytest.approx(0.75)
    assert sum(slopes) == pytest.approx(0)  # what all choices gain alike is no gain


def test_the_chance_of_a_long_answer_does_not_vanish() -> None:
    value, (slope,) = question((True,), (1.0, 0.0), tokens=10 * LONG).value([-0.5 * 10 * LONG])
    assert value == pytest.approx(math.exp(-0.5 * LONG))
    assert slope > 0


def test_far_apart_choices_stay_finite() -> None:
    value, slopes = question((False, True), (1.0, 0.0)).value([-1.0, -5000.0])
    assert (value, *slopes) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("measure", "shares", "parts"),
    [
        ("acc,none", (1.0, 0.0), (1.0, 0.0)),
        ("exact_match,strict-match", (0.5, 0.5), (0.5, 0.5)),
        ("acc_norm,none", (0.0, 1.0), (0.0, 1.0)),
        ("bleu,none", (1.0, 0.0), (0.0, 1.0)),
    ],
)
def test_what_is_no_chance_is_climbed_by_its_likelihood(
    measure: str, shares: tuple[float, float], parts: tuple[float, float]
) -> None:
    goal = Goal("t", measure, 1.0, True)
    assert parts_of(goal, Objective((goal,), *shares)) == parts
