"""Tasks count by how far they come from the base to the best source, and noise is no distance."""

from __future__ import annotations

import math

import pytest

from evolve.statistics.normalisation import SMALLEST, SMALLEST_IN_ERRORS, gaps
from evolve.statistics.paired import paired_difference
from tasks.objective import Goal, Objective
from tasks.score import Score

OBJECTIVE = Objective((Goal("sums", "acc,none", 1.0, True), Goal("colours", "acc,none", 3.0, True)))


def test_a_gap_is_from_the_base_to_the_best_source() -> None:
    base, sources = {"a": 0.2, "b": -3.0}, [{"a": 0.6, "b": -4.0}, {"a": 0.5, "b": -2.5}]
    assert gaps(base, sources, {"a": 0.01, "b": 0.02}) == pytest.approx({"a": 0.4, "b": 0.5})


def test_a_gap_within_its_noise_is_widened() -> None:
    base = {"a": 0.5, "b": 0.5, "c": 0.5}
    sources = [{"a": 0.51, "b": 0.3, "c": 0.5}]
    found = gaps(base, sources, {"a": 0.03, "b": 0.04, "c": 0.0})
    assert found == {"a": SMALLEST_IN_ERRORS * 0.03, "b": SMALLEST_IN_ERRORS * 0.04, "c": SMALLEST}


def measured(sums: float, colours: float) -> Score:
    right = {
        task: {i: float(i < 40 * share) for i in range(40)} for task, share in (("sums", sums), ("colours", colours))
    }
    return Score({task: {"acc,none": values} for task, values in right.items()}, {})


def test_a_normalised_objective_differs_by_a_constant_of_each_task() -> None:
    found = {"sums": 0.6, "colours": 0.1}
    normal = OBJECTIVE.normalised(found)
    assert math.fsum(normal.weights.values()) == pytest.approx(4.0)
    one, other = measured(0.5, 0.6).measures, measured(0.8, 0.5).measures
    by_hand = (1 * (0.8 - 0.5) / 0.6 + 3 * (0.5 - 0.6) / 0.1) / (1 / 0.6 + 3 / 0.1)
    assert normal.value(other) - normal.value(one) == pytest.approx(by_hand)
    difference = paired_difference(normal.utilities(other), normal.utilities(one), normal.weights, 0)
    assert difference.mean == pytest.approx(by_hand)


def test_what_should_fall_is_turned_round() -> None:
    falling = Objective((Goal("a", "acc,none", 1.0, True), Goal("b", "word_perplexity,none", 1.0, False)))
    assert falling.oriented({"a": 0.5, "b": 12.0}) == {"a": 0.5, "b": -12.0}
