"""The report compares by the metric, task by task too, with every baseline; what is not finite is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.recipe import Recipe
from evolve.conclusion.finalists import Finalist
from evolve.conclusion.selection import Selection
from evolve.conclusion.verdict import judge
from evolve.report.figures import Figures
from evolve.report.markdown import headline
from evolve.search.baselines import model_recipes, plain_merges
from evolve.statistics import paired as statistics
from evolve.trial import Evaluation, Failure, Job
from search_spaces.depth import Family
from tasks.objective import Goal, Objective
from tasks.score import Score

FAMILY = Family("base", ("math", "code"), 4, ("embed",), "float32")
ACCURACY = Objective((Goal("t", "acc,none", 1.0, True),))
LIKELIER = Objective(ACCURACY.goals, metric=0.0, loglikelihood=1.0)
PERPLEXITY = Objective((Goal("t", "word_perplexity,none", 1.0, False, "weighted_perplexity"),))


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)


def finalist(weight: float) -> Finalist:
    recipe = {"merge_method": "linear", "models": [{"model": "math", "parameters": {"weight": weight}}]}
    return Finalist(f"trial {weight}", Recipe.model_validate(recipe), 0.9)


def alone() -> Selection:
    return Selection((finalist(0.1),), (), {})


def score(accuracy: float, answers: float) -> Score:
    """20 documents of 3 words, of which a share is right; every answer has the same log-likelihood."""
    documents = range(20)
    measures = {
        "acc,none": {document: float(document < 20 * accuracy) for document in documents},
        "loglikelihood": dict.fromkeys(documents, answers),
        "gold_tokens": dict.fromkeys(documents, 2.0),
        "gold_bytes": dict.fromkeys(documents, 4.0),
        "word_perplexity,none": {document: answers * (1 + document / 100) for document in documents},
        "word_perplexity,none/weight": dict.fromkeys(documents, 3.0),
    }
    return Score({"t": measures}, {})


class Told:
    """Scores by a job's key; jobs without one fail."""

    def __init__(self, scores: dict[str, Score]) -> None:
        self.scores, self.asked = scores, list[str]()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            self.asked.append(job.key)
            yield job, Evaluation(self.scores.get(job.key, Failure("merge", "no")))

    def close(self) -> None: ...


class Ended(Told):
    """The report documents: the winner's checkpoint, and every other model with one score."""

    def __init__(self, winner: Score, others: Score) -> None:
        super().__init__({})
        self._winner, self._others = winner, others

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            self.asked.append(job.key)
            yield job, Evaluation(self._others if job.folder is None else self._winner)


def test_the_comparison_is_by_the_metric_and_shows_both() -> None:
    executor = Ended(score(0.5, -1.0), score(0.6, -3.0))
    verdict = judge(alone(), Path("out"), FAMILY, LIKELIER, 0, executor, lambda _: None)
    winner, *others = verdict.rows
    assert (winner.mean, winner.loglikelihoods) == (0.5, {"t": -0.5})
    for row in others:
        assert row.gain is not None
        assert row.gain.mean == pytest.approx(-0.1)
        assert row.loglikelihood_gain is not None
        assert row.loglikelihood_gain.mean == pytest.approx(1.0)
        assert row.objective_gain is None, "it is the log-likelihood's"
    assert len(executor.asked) == 1 + 3 + 4


def test_a_lower_perplexity_is_a_gain_and_is_shown_without_a_sign() -> None:
    executor = Ended(score(0.5, -1.0), score(0.5, -3.0))
    verdict = judge(alone(), Path("out"), FAMILY, PERPLEXITY, 0, executor, lambda _: None)
    winner, *others = verdict.rows
    assert winner.mean == winner.metrics["t"] == pytest.approx(math.exp(1.095 / 3))
    assert all(row.gain is not None and row.gain.low > 0 for row in others)
    assert all(row.standard_error > 0 for row in verdict.rows)


def test_a_mix_has_a_gain_of_its_own() -> None:
    mixed = Objective(ACCURACY.goals, metric=1.0, loglikelihood=0.2)
    executor = Ended(score(0.5, -1.0), score(0.6, -3.0))
    row = judge(alone(), Path("out"), FAMILY, mixed, 0, executor, lambda _: None).rows[1]
    assert row.objective_gain is not None
    assert row.objective_gain.mean == pytest.approx(-0.1 + 0.2 * 1.0)


def test_an_answer_without_probability_leaves_the_metric_standing() -> None:
    executor = Ended(score(0.5, -1.0), score(0.6, -math.inf))
    verdict = judge(alone(), Path("out"), FAMILY, ACCURACY, 0, executor, lambda _: None)
    assert [row.loglikelihood_gain for row in verdict.rows[1:]] == [None] * 7
    assert all(row.gain is not None for row in verdict.rows[1:])


def test_tasks_are_compared_one_by_one_with_the_base_and_the_best() -> None:
    verdict = judge(
        alone(), Path("out"), FAMILY, ACCURACY, 0, Ended(score(0.5, -1.0), score(0.6, -3.0)), lambda _: None
    )
    assert verdict.tasks.keys() == {verdict.best, "base"}
    (gain,) = verdict.tasks["base"]
    assert (gain.task, gain.wins, gain.losses, gain.documents) == ("t", 0, 2, 20)
    assert gain.gain.mean == pytest.approx(-0.1)
    assert (verdict.report_value, verdict.report_error) == (0.5, pytest.approx(math.sqrt(0.25 / 19)))


def test_floors_are_looked_at_on_the_report_documents() -> None:
    def told(floor: float) -> str:
        executor = Ended(score(0.5, -1.0), score(0.6, -3.0))
        verdict = judge(alone(), Path("out"), FAMILY, ACCURACY, 0, executor, lambda _: None, floors={"t": floor})
        return verdict.floors[0].verdict

    assert [told(floor) for floor in (0.5, 0.1, 0.0)] == ["kept", "cannot be told", "cannot be told"]


def test_the_openings_merges_are_baselines_too() -> None:
    same, other = finalist(1.0).recipe, finalist(0.7).recipe
    executor = Ended(score(0.5, -1.0), score(0.6, -3.0))
    baselines = {"greedy soup of 1": other, "uniform average": same}
    verdict = judge(alone(), Path("out"), FAMILY, ACCURACY, 0, executor, lambda _: None, baselines=baselines)
    names = [row.name for row in verdict.rows]
    assert "greedy soup of 1" in names
    assert len(names) == len(set(names)) == 1 + 3 + 4 + 1


def test_a_normalised_objective_has_a_gain_of_its_own() -> None:
    two = Objective((Goal("t", "acc,none", 1.0, True), Goal("u", "acc,none", 1.0, True)))

    def both(first: float, second: float) -> Score:
        return Score({"t": score(first, -1.0).measures["t"], "u": score(second, -1.0).measures["t"]}, {})

    executor = Ended(both(0.7, 0.5), both(0.5, 0.6))
    ranked_by = two.normalised({"t": 0.4, "u": 0.1})
    row = judge(alone(), Path("out"), FAMILY, two, 0, executor, lambda _: None, ranked_by=ranked_by).rows[1]
    assert row.gain is not None
    assert row.gain.mean == pytest.approx(0.05), "the headline is about the mean of the metrics"
    assert row.objective_gain is not None
    assert row.objective_gain.mean == pytest.approx((0.2 / 0.4 - 0.1 / 0.1) / (1 / 0.4 + 1 / 0.1))


def test_a_baseline_that_won_is_not_compared_with_itself() -> None:
    uniform = plain_merges(FAMILY)["uniform average"]
    selection = Selection((Finalist("uniform average", uniform, 0.9, kind="start"),), (), {})
    executor = Ended(score(0.9, -1.0), score(0.6, -3.0))
    verdict = judge(selection, Path("out"), FAMILY, ACCURACY, 0, executor, lambda _: None)
    assert "uniform average" in [row.name for row in verdict.rows]
    assert verdict.best != "uniform average"
    assert "uniform average" not in verdict.tasks


def test_a_baseline_that_won_is_not_compared_with_its_twin_either() -> None:
    """The same merge under another recipe: a start point in slices, or another method with rounding of its own."""
    planned, rounded = finalist(0.25).recipe, finalist(0.26).recipe
    uniform = plain_merges(FAMILY)["uniform average"]
    won, near, worse = score(0.9, -1.0), score(0.9, -1.0 + 1e-6), score(0.6, -3.0)
    known = {recipe.digest: worse for recipe in (*model_recipes(FAMILY).values(), *plain_merges(FAMILY).values())}
    checkpoint = {f"checkpoint of {uniform.digest}": won, uniform.digest: won}
    executor = Told(known | checkpoint | {planned.digest: score(0.95, -1.0), rounded.digest: near})
    selection = Selection((Finalist("uniform average", uniform, 0.9, kind="start"),), (), {})
    verdict = judge(
        selection,
        Path("out"),
        FAMILY,
        ACCURACY,
        0,
        executor,
        lambda _: None,
        baselines={"planned alike": planned, "answers alike": rounded},
        same=lambda one, other: one in (other, planned),
    )
    assert set(verdict.same) == {"uniform average", "planned alike", "answers alike"}
    assert verdict.best not in verdict.same
    told = verdict.as_dict()
    text = headline(told, Figures(ACCURACY))
    assert "strongest of the 6 models and plain merges" in text
    assert "alike" not in text
    found = replace(selection.ranked[0], kind="found")
    assert judge(Selection((found,), (), {}), Path("out"), FAMILY, ACCURACY, 0, executor, lambda _: None).same == ()
