"""The front and its hypervolume against counting, and what a front is not: a place for candidates half scored."""

from __future__ import annotations

import csv
import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.recipe import Recipe
from evolve.report.search import front_text
from evolve.search.front import (
    Front,
    Member,
    front_csv,
    front_data,
    front_of,
    hypervolume,
    lowest,
    not_dominated,
    spread_out,
)
from evolve.statistics.levels import FRONT_SHOWN
from evolve.trial import Failure, Trial

GRID = st.integers(0, 4)


def trial(number: int, whole: bool = True, **parts: float) -> Trial:
    return Trial(number, 0, (0.5,), f"d{number}", sum(parts.values()), parts=parts, whole=whole)


def names(points: list[tuple[int, ...]]) -> list[dict[str, float]]:
    return [{f"t{place}": float(value) for place, value in enumerate(point)} for point in points]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4).flatmap(lambda d: st.lists(st.tuples(*[GRID] * d), min_size=1, max_size=7)))
def test_the_hypervolume_is_the_number_of_cells_below_a_point(points: list[tuple[int, ...]]) -> None:
    """On a grid of whole numbers the volume can be counted."""
    cells = itertools.product(range(4), repeat=len(points[0]))
    below = sum(any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
    reference = dict.fromkeys(names(points)[0], 0.0)
    assert hypervolume(names(points), reference) == pytest.approx(below)


def test_points_below_the_reference_add_nothing() -> None:
    reference = {"a": 0.5, "b": 0.5}
    assert hypervolume([{"a": 0.4, "b": 9.0}, {"a": 0.5, "b": 9.0}], reference) == 0.0
    assert hypervolume([{"a": 0.7, "b": 0.6}, {"a": 0.4, "b": 9.0}], reference) == pytest.approx(0.02)
    assert hypervolume([], reference) == 0.0


def test_the_front_holds_what_nothing_beats() -> None:
    values = np.array([[1.0, 5.0], [2.0, 4.0], [2.0, 3.0], [3.0, 1.0], [2.0, 4.0], [0.0, 5.0]])
    assert not_dominated(values).tolist() == [True, True, False, True, False, False]


def test_failures_and_those_that_left_a_race_are_not_on_the_front() -> None:
    failed = Trial(3, 0, (0.5,), "d3", None, failure=Failure("merge", "no"))
    trials = [trial(0, a=0.5, b=0.5), trial(1, a=0.9, b=0.1), trial(2, whole=False, a=1.0, b=1.0), failed]
    assert [each.id for each in front_of(trials, ["a", "b"])] == [0, 1]
    assert front_of([failed], ["a", "b"]) == []


def test_a_crowded_front_keeps_its_ends_and_its_gaps() -> None:
    along = [0.0, 0.01, 0.02, 0.5, 0.98, 0.99, 1.0]
    trials = [trial(number, a=value, b=1 - value) for number, value in enumerate(along)]
    assert [each.id for each in spread_out(trials, ["a", "b"], 3)] == [0, 3, 6]
    assert spread_out(trials, ["a", "b"], 7) == trials


def test_the_reference_is_the_lowest_of_the_models() -> None:
    assert lowest([{"a": 0.5, "b": 0.1}, {"a": 0.2, "b": 0.9}], ["a", "b"]) == {"a": 0.2, "b": 0.1}


def test_the_table_names_the_file_of_every_recipe() -> None:
    recipe = Recipe.model_validate({"merge_method": "linear", "models": [{"model": "m", "parameters": {"weight": 1}}]})
    parts = {"a": 0.5, "b": 0.25}
    members = (Member("trial 3", recipe, parts, parts, True), Member("uniform average", recipe, parts))
    rows = list(csv.reader(io.StringIO(front_csv(Front(members, {"a": 0.0, "b": 0.0}, 0.125)))))
    assert rows[0] == ["name", "file", "a (search)", "b (search)", "a (selection)", "b (selection)", rows[0][-1]]
    assert rows[1] == ["trial 3", "trial-3.yaml", "0.5", "0.25", "0.5", "0.25", "true"]
    assert rows[2] == ["uniform average", "uniform-average.yaml", "0.5", "0.25", "", "", ""]


def test_a_front_on_record_has_the_members_that_are_shown() -> None:
    """One value in MySQL is 64 KB of text."""
    recipe = Recipe.model_validate({"merge_method": "passthrough", "models": [{"model": "m"}]})
    tasks = [f"a task with a long name, number {place}" for place in range(8)]
    members = [
        Member(f"trial {n}", recipe, dict.fromkeys(tasks, n / 3), dict.fromkeys(tasks, n / 7)) for n in range(900)
    ]
    told = front_data(Front(tuple(members), dict.fromkeys(tasks, 0.0), 0.1))
    assert len(json.dumps(told)) < 30_000
    assert (told["count"], len(told["members"])) == (900, FRONT_SHOWN)
    assert "880 more are in front.csv" in front_text({"front": told})
