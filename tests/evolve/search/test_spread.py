"""Climbs for a front: towards each task, and what lies between their ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.recipe import Recipe
from evolve.config.budget import Budget
from evolve.config.search_yaml import Search
from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.optimizer import Problem
from evolve.search.descent import FRUITLESS, Descent, Reached, Remember
from evolve.search.draws import Draws
from evolve.search.loop import search
from evolve.search.spread import LEAN, between, leanings, leant_to, middle
from evolve.search.study import Study
from evolve.storage.ledger import Ledger
from evolve.trial import Evaluation, Job, Point, Trial
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Range
from search_spaces.depth import Family
from search_spaces.gene import Gene
from search_spaces.mixture import mixture_point
from search_spaces.space import search_space
from tasks.objective import Goal, Objective
from tasks.score import Score

pytestmark = pytest.mark.usefixtures("unsynchronised")
WEIGHTS = {"sums": 1.0, "colours": 3.0}
OBJECTIVE = Objective(tuple(Goal(task, "acc,none", weight, True) for task, weight in WEIGHTS.items()))
SPACE = search_space(
    Spec(
        Family("base", ("math", "code"), 4, ("embed",), "float32"),
        ("task_arithmetic",), SPACES["blocks"], 1, (), {"weight": Range(0.0, 1.5)}, 0,
    )
)  # fmt: skip


def test_each_task_is_leant_to_once() -> None:
    assert list(leanings(WEIGHTS)) == [{"sums": LEAN, "colours": 3.0}, {"sums": 1.0, "colours": 3.0 * LEAN}]


def test_the_middle_of_each_two_ends_that_differ() -> None:
    weights = (Gene("a", parameter="weight"), Gene("b", parameter="weight"))
    ends = [(0.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)]
    assert between(weights, ends, 9) == [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)]
    assert between(weights, ends, 2) == [(0.5, 0.0), (0.0, 0.5)]
    assert between(weights[:1], [(0.5,), (0.5,)], 9) == []


def test_no_third_choice_lies_between_two() -> None:
    genes = (Gene("a", parameter="weight"), Gene("method", choices=("linear", "sce", "ties"), parameter="method"))
    assert middle(genes, (0.0, 0.1), (1.0, 0.9)) == (0.5, 0.1)


def test_the_task_that_weights_lean_to_has_a_name() -> None:
    assert [leant_to(each, WEIGHTS) for each in (None, *leanings(WEIGHTS))] == ["", "sums", "colours"]


class Weighed:
    """Scores every recipe alike; nothing here looks at values."""

    def run(self, jobs: object) -> object:
        for job in jobs:  # type: ignore[attr-defined]
            assert isinstance(job, Job)
            values = {task: {"acc,none": {i: float(i % 2) for i in range(4)}} for task in WEIGHTS}
            yield job, Evaluation(Score(values, {}))

    def close(self) -> None: ...


class Watcher:
    def replayed(self, trials: int, moved: int) -> None: ...

    def finished(self, trial: Trial) -> None: ...


def start(
    folder: Path, objectives: int, trials: int, over: bool = False
) -> tuple[list[Trial], list[Mapping[str, float] | None]]:
    """One start of a search in `folder` whose climbs go a tenth up each gene of the task that they lean to."""
    ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "run")
    asked: list[Mapping[str, float] | None] = []

    def climb(begin: Point, remember: Remember, weights: Mapping[str, float] | None, reached: Reached) -> Descent:
        remember(lambda: {"failure": None, "documents": 0}, 0)
        asked.append(weights)
        place = len(asked) - 1
        point = tuple(min(1.0, x + 0.1) if i == place else x for i, x in enumerate(begin))
        ends = FRUITLESS if reached(point) else "it rises no more"
        return Descent((), (point,), (1.0,) * len(begin), 0, ends)

    budget = Budget.of(Search(trials=trials), ledger.trials(), ledger.events("start"))
    draws = Draws({task: tuple(range(4)) for task in WEIGHTS}, 0, raced=False)
    study = Study(SPACE, Weighed(), ledger, budget, OBJECTIVE, draws, watcher=Watcher(), check=lambda: None)  # type: ignore[arg-type]
    name = "nsga2" if objectives > 1 else "cma"
    problem = Problem(SPACE.genes, (), 0, 4, objectives=objectives)
    search(study, OPTIMIZERS[name].make, problem, climb=climb, over=lambda: over)
    return study.recorded, asked


def test_a_front_is_climbed_to_from_several_sides(tmp_path: Path) -> None:
    trials, asked = start(tmp_path, 2, 30)
    assert asked == [None, *leanings(WEIGHTS)]
    center, *sides = [trial.point for trial in trials if trial.origin == "gradient"]
    leant = [trial.point for trial in trials if trial.origin == "leaning gradient"]
    assert not sides
    # All models are alike here, so that it is the same one that both begin halfway to.
    halfway = middle(SPACE.genes, center, mixture_point(SPACE, {"math": 1.0}) or ())
    assert [sum(a != b for a, b in zip(halfway, point, strict=True)) for point in leant] == [1, 1]
    assert [trial.point for trial in trials if trial.origin == "between gradients"] == between(
        SPACE.genes, [center, *leant], 4
    )
    assert len(trials) == 30
    again, _ = start(tmp_path, 2, 30)
    assert again == trials


def test_one_objective_is_climbed_once(tmp_path: Path) -> None:
    trials, asked = start(tmp_path, 1, 20)
    assert asked == [None]
    assert not [trial for trial in trials if trial.origin in ("leaning gradient", "between gradients")]


def test_a_climb_in_vain_ends_the_search(tmp_path: Path) -> None:
    trials, asked = start(tmp_path, 1, 20, over=True)
    assert asked == [None]
    assert trials[-1].origin == "gradient"
    assert len(trials) < 20


def test_what_a_climb_came_to_is_a_recipe_of_the_space(tmp_path: Path) -> None:
    trials, _ = start(tmp_path, 2, 30)
    for trial in trials:
        if trial.origin.endswith("gradients") or trial.origin.endswith("gradient"):
            assert SPACE.decode(trial.point).digest == trial.digest
            assert isinstance(SPACE.decode(trial.point), Recipe)
