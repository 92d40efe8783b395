"""The winner is the best by the objective that keeps the floors, and never worse than a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from engine.recipe import Recipe
from evolve.conclusion.finalists import Finalist
from evolve.conclusion.selection import Selection, select
from evolve.errors import RunError
from evolve.search.draws import Draws
from evolve.trial import Evaluation, Failure, Job
from tasks.objective import Goal, Objective
from tasks.score import Score

ACCURACY = Objective((Goal("t", "acc,none", 1.0, True),))
LIKELIER = Objective(ACCURACY.goals, metric=0.0, loglikelihood=1.0)
PERPLEXITY = Objective((Goal("t", "word_perplexity,none", 1.0, False, "weighted_perplexity"),))


def recipe_of(weight: float) -> Recipe:
    return Recipe.model_validate(
        {"merge_method": "linear", "models": [{"model": "math", "parameters": {"weight": weight}}]}
    )


def finalist(weight: float) -> Finalist:
    return Finalist(f"trial {weight}", recipe_of(weight), 0.9)


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


def test_finalists_are_ranked_by_the_objective() -> None:
    one, other = finalist(0.1), finalist(0.2)
    executor = Told({one.recipe.digest: score(0.6, -3.0), other.recipe.digest: score(0.5, -1.0)})
    by_metric = select([one, other], ACCURACY, executor, lambda _: None)
    assert [each.name for each in by_metric.ranked] == [one.name, other.name]
    by_answers = select([one, other], LIKELIER, executor, lambda _: None)
    assert [each.name for each in by_answers.ranked] == [other.name, one.name]
    assert [each.selection for each in by_answers.ranked] == [-0.5, -1.5]
    assert by_answers.ranked[0].metrics["selection"] == {"t": 0.5}


def test_finalists_that_fail_or_are_not_finite_cannot_win() -> None:
    one, other, third = finalist(0.1), finalist(0.2), finalist(0.3)
    said: list[str] = []
    executor = Told({one.recipe.digest: score(0.9, -math.inf), other.recipe.digest: score(0.5, -1.0)})
    assert [each.name for each in select([one, other, third], LIKELIER, executor, said.append).ranked] == [other.name]
    assert f"{third.name} failed (merge): no" in said
    broken = Told({one.recipe.digest: score(0.9, -1e6)})
    with pytest.raises(RunError, match="none could be scored"):
        select([one], PERPLEXITY, broken, said.append)
    assert f"{one.name} failed (not finite): its metric is not a finite number" in said


class Answers:
    """Two tasks whose documents are right with a chance by recipe; tells how many documents each was asked."""

    def __init__(self, chances: dict[str, tuple[float, float]], documents: int) -> None:
        self.chances, self.asked = chances, dict[str, int]()
        self.dice = np.random.default_rng(0).random((2, documents))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            measures = {}
            for task, chance, dice in zip("tu", self.chances[job.key], self.dice, strict=True):
                ids = range(len(dice)) if job.only is None else job.only[task]
                measures[task] = {"acc,none": {each: float(dice[each] < chance) for each in ids}}
            self.asked[job.key] = sum(len(each["acc,none"]) for each in measures.values())
            yield job, Evaluation(Score(measures, {}))

    def close(self) -> None: ...


TWO = Objective((Goal("t", "acc,none", 1.0, True), Goal("u", "acc,none", 1.0, True)))
DOCUMENTS = {"t": tuple(range(128)), "u": tuple(range(128))}


def test_who_is_clearly_worse_stops_early_and_the_close_ones_meet_on_everything() -> None:
    finalists = [finalist(weight) for weight in (0.1, 0.2, 0.3, 0.4)]
    chances = [(0.7, 0.7), (0.69, 0.7), (0.2, 0.3), (0.55, 0.6)]
    executor = Answers({f.recipe.digest: c for f, c in zip(finalists, chances, strict=True)}, 128)
    said: list[str] = []
    selection = select(finalists, TWO, executor, said.append, chunks=Draws(DOCUMENTS, 0).chunks(0))
    assert [each.name for each in selection.ranked] == ["trial 0.1", "trial 0.2"]
    assert [each.documents for each in selection.ranked] == [256, 256]
    assert {each.name: each.documents for each in selection.dropped} == {"trial 0.3": 32, "trial 0.4": 64}
    assert executor.asked[finalists[2].recipe.digest] == 32
    assert "trial 0.3 is clearly worse" in said
    assert selection.measures.keys() == {"trial 0.1", "trial 0.2"}
    whole = select(finalists, TWO, executor, said.append)
    assert [each.name for each in whole.ranked[:2]] == ["trial 0.1", "trial 0.2"]
    assert whole.ranked[0].selection == selection.ranked[0].selection


def test_the_winner_is_the_best_that_keeps_the_floors() -> None:
    base, good, greedy = finalist(0.1), finalist(0.2), finalist(0.3)
    chances = [(base, (0.5, 0.7)), (good, (0.6, 0.62)), (greedy, (0.99, 0.5))]
    executor = Answers({each.recipe.digest: chance for each, chance in chances}, 128)
    chunks = Draws(DOCUMENTS, 0).chunks(0)

    def selected(floors: dict[str, float]) -> Selection:
        return select(
            [greedy, good, base],
            TWO,
            executor,
            lambda _: None,
            chunks=chunks,
            floors=floors,
            base=base.recipe.digest,
        )

    assert selected({"u": 0.14}).ranked[0].name == "trial 0.2"
    assert selected({"u": 0.5}).ranked[0].name == "trial 0.3"
    assert selected({"u": 0.0, "t": 0.0}).ranked[0].name == "trial 0.1", (
        "nothing found keeps them: the base is left as it is"
    )
    kept = selected({"u": 0.14})
    missed = kept.ranked[-1]
    assert missed.name == "trial 0.3"
    assert missed.violation == pytest.approx(
        kept.ranked[1].metrics["selection"]["u"] - 0.14 - missed.metrics["selection"]["u"]
    )


def test_with_floors_nobody_stops_early() -> None:
    """On the first documents all but one seem to miss a floor, and that one leads."""
    finalists = [finalist(weight) for weight in (0.1, 0.2, 0.3)]
    chances = [(0.5, 0.7), (0.9, 0.72), (0.1, 0.8)]
    executor = Answers({f.recipe.digest: c for f, c in zip(finalists, chances, strict=True)}, 128)
    chunks, base = Draws(DOCUMENTS, 0).chunks(0), finalists[0].recipe.digest
    selection = select(finalists, TWO, executor, lambda _: None, chunks=chunks, floors={"u": 0.05}, base=base)
    assert not selection.dropped
    assert [each.documents for each in selection.ranked] == [256] * 3
    assert select(finalists, TWO, executor, lambda _: None, chunks=chunks, base=base).dropped


def test_floors_need_the_base() -> None:
    one = finalist(0.1)
    with pytest.raises(RunError, match=r"another name without floors, or with another models\.base"):
        select(
            [one], ACCURACY, Told({one.recipe.digest: score(0.5, -1.0)}), lambda _: None, floors={"t": 0.1}, base="b"
        )


def first_of(*finalists: Finalist, chances: Sequence[float]) -> str:
    """The winner's name, of finalists that answer with these chances."""
    executor = Answers(
        {each.recipe.digest: (chance, chance) for each, chance in zip(finalists, chances, strict=True)}, 200
    )
    objective = Objective((Goal("t", "acc,none", 1.0, True), Goal("u", "acc,none", 1.0, True)))
    return select(finalists, objective, executor, lambda _: None).ranked[0].name


def test_a_lucky_candidate_does_not_stand_before_what_rests_on_many() -> None:
    found, climbed = finalist(0.1), replace(finalist(0.2), kind="climbed")
    mean, start = replace(finalist(0.3), kind="mean"), replace(finalist(0.4), kind="start")
    assert first_of(found, climbed, chances=(0.5025, 0.5)) == climbed.name
    assert first_of(found, mean, chances=(0.5025, 0.5)) == mean.name
    assert first_of(found, climbed, chances=(0.6, 0.5)) == found.name  # more than luck
    assert first_of(found, climbed, start, chances=(0.515, 0.5, 0.51)) == found.name  # worse than a baseline
    assert first_of(climbed, start, chances=(0.5, 0.51)) == start.name
    assert first_of(found, finalist(0.5), chances=(0.5025, 0.5)) == found.name


def test_of_equal_finalists_the_better_on_the_search_documents_stands_first() -> None:
    """Also where the equality is one but for rounding, the sums being of other tasks' parts."""
    objective = Objective(tuple(Goal(task, "acc,none", 1.0, True) for task in "abc"))

    def scored_on(right: Sequence[int]) -> Score:
        rows = {task: [float(i < n) for i in range(100)] for task, n in zip("abc", right, strict=True)}
        return Score({task: {"acc,none": dict(enumerate(its))} for task, its in rows.items()}, {})

    plain = replace(finalist(0.1), search=0.82, kind="start")
    climbed = replace(finalist(0.2), search=0.86, kind="climbed")
    equal = ((59, 96, 100), (58, 97, 100)), ((40, 92, 100), (40, 94, 98)), ((40, 94, 98), (40, 92, 100))
    for first, second in equal:
        told = Told({plain.recipe.digest: scored_on(first), climbed.recipe.digest: scored_on(second)})
        for finalists in ((plain, climbed), (climbed, plain)):
            selection = select(finalists, objective, told, lambda _: None)
            assert [each.name for each in selection.ranked] == [climbed.name, plain.name]
