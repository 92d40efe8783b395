"""Growing begins with a move per source, keeps what it has learned when genes part, and ends with all of them free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.growing import Growing
from evolve.optimizers.optimizer import Problem
from evolve.trial import Observation, Point
from search_spaces.gene import Gene

PLACES = (("outer", None), *((group, position) for group in ("self_attn", "mlp") for position in range(4)))
GENES = tuple(
    Gene(f"weight.{model}.{group}.{position}", 0.0, 1.0, (), False, "weight", model, group, position)
    for model in ("a", "b", "c")
    for group, position in PLACES
)
BEST = np.array([0.7 if gene.model == "a" else 0.3 for gene in GENES])
PROBLEM = Problem(GENES, ((0.5,) * len(GENES), (0.4,) * len(GENES)), 0, 8, grow=True)


def smooth(point: Point) -> float:
    return -float(np.mean((np.array(point) - BEST) ** 2))


def run(
    optimizer: Any, trials: int, value: Callable[[Point], float], documents: int = 100
) -> tuple[list[list[Point]], list[dict[str, Any]]]:
    asked: list[list[Point]] = []
    decisions: list[dict[str, Any]] = []
    while sum(map(len, asked)) < trials:
        asked.append(optimizer.ask())
        optimizer.tell([Observation(i, each, value(each), 0.01, documents) for i, each in enumerate(asked[-1])])
        decisions += [{**each, "after": sum(map(len, asked))} for each in optimizer.decisions()]
    return asked, decisions


def distinct(point: Point, model: str) -> int:
    return len({unit for unit, gene in zip(point, GENES, strict=True) if gene.model == model})


def test_at_first_the_genes_of_a_source_move_together_and_later_each_by_itself() -> None:
    asked, decisions = run(Growing(PROBLEM), 300, smooth)
    assert all(distinct(each, model) == 1 for each in asked[1] for model in "abc")
    assert any(distinct(each, "a") == len(PLACES) for each in asked[-1])
    assert [each["moves"] for each in decisions] == sorted(each["moves"] for each in decisions)
    assert decisions[-1]["moves"] == len(GENES)
    assert {each["kind"] for each in decisions} == {"split"}


def test_a_longer_search_begins_like_a_shorter_one() -> None:
    short, long = run(Growing(PROBLEM), 60, smooth), run(Growing(PROBLEM), 200, smooth)
    assert long[0][: len(short[0])] == short[0]
    assert long[1][: len(short[1])] == short[1]


def test_it_grows_by_documents_and_not_by_candidates() -> None:
    """Candidates that leave a race early count by the share of the documents that they were scored on."""

    def first_split(shares: tuple[int, ...]) -> int:
        optimizer, count = Growing(replace(PROBLEM, population=4, seed=1)), 0
        while not optimizer.decisions():
            points = optimizer.ask()
            count += len(points)
            told = enumerate(points)  # each generation is better than the last, so that none is for want of progress
            optimizer.tell([Observation(i, each, smooth(each) + count, 0.01, shares[i % 4]) for i, each in told])
        return count

    assert first_split((100, 1, 1, 1)) > first_split((100, 100, 100, 100))


def test_a_part_of_no_importance_stays_whole() -> None:
    importance = tuple(1.0 if gene.model == "a" else 0.01 for gene in GENES)
    _, decisions = run(Growing(replace(PROBLEM, importance=importance)), 40, smooth)
    assert all("weight.a" in name for name in decisions[0]["groups"])


def test_fine_structure_that_it_was_given_is_kept_while_groups_move() -> None:
    mean = tuple(0.3 + 0.01 * index for index in range(len(GENES)))
    optimizer = Growing(replace(PROBLEM, start=(), mean=mean, deviations=(0.02,) * len(GENES)))
    for point in optimizer.ask():
        moved = np.array(point) - mean
        for model in "abc":
            own = [change for change, gene in zip(moved, GENES, strict=True) if gene.model == model]
            assert own == pytest.approx([own[0]] * len(own))


def test_the_mean_is_near_the_best_in_spite_of_noise() -> None:
    """Noise as of 160 documents: its standard deviation is a sixth of what the best start leaves to gain."""
    losses = []
    for seed in range(4):
        noise = np.random.Generator(np.random.PCG64(seed))
        optimizer = Growing(replace(PROBLEM, seed=seed))
        run(optimizer, 100, lambda point, noise=noise: smooth(point) + 0.003 * noise.standard_normal())
        losses.append(-smooth(optimizer.recommend() or ()))
    assert np.mean(losses) < 0.6 * min(-smooth(point) for point in PROBLEM.start)


def test_the_default_grows_only_where_it_is_asked_to_and_something_can_part() -> None:
    make = OPTIMIZERS["cma"].make
    assert isinstance(make(PROBLEM), Growing)
    assert not isinstance(make(replace(PROBLEM, grow=False)), Growing)
    alone = (Gene("weight.a", parameter="weight", model="a"), Gene("weight.b", parameter="weight", model="b"))
    assert not isinstance(make(Problem(alone, (), 0, 4, grow=True)), Growing)
