"""A worker merges what it has to merge, once, and scores what stands in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.recipe import Recipe
from evolve.config.search_yaml import SearchConfig
from evolve.trial import Failure, Job
from evolve.workers import resident
from evolve.workers.evaluator import Evaluator
from tasks.memory import is_out_of_memory
from tasks.score import Scorer

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, REVERSE, SORT = (str(DEMO / "models" / name) for name in ("base", "reverse", "sort"))


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    data = {
        "name": "small",
        "models": {"base": BASE, "sources": [REVERSE, SORT]},
        "score": {
            "tasks": [{"task": "demo_pick", "metric": "acc"}],
            "include": [str(DEMO)],
            "documents": {"search": 8, "selection": 4, "report": 4},
            "dtype": "float32",
        },
    }
    return Evaluator(SearchConfig.model_validate(data))


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each merge that is made."""
    made: list[Any] = []
    real = resident.merge_into

    def counted(*arguments: Any, **keywords: Any) -> Any:
        made.append(arguments[0])
        return real(*arguments, **keywords)

    monkeypatch.setattr(resident, "merge_into", counted)
    return made


def recipe(weight: float) -> Recipe:
    sources = [{"model": model, "parameters": {"weight": weight}} for model in (REVERSE, SORT)]
    made = {"merge_method": "task_arithmetic", "base_model": BASE, "models": sources, "dtype": "float32"}
    return Recipe.model_validate(made)


def job(weight: float, ids: tuple[int, ...], slopes: bool = False) -> Job:
    made = recipe(weight)
    return Job(made.digest, "search", recipe=made, only={"demo_pick": ids}, slopes=slopes)


def test_what_stands_in_memory_is_not_merged_again(evaluator: Evaluator, merges: list[Any]) -> None:
    ids = tuple(each.id for each in evaluator._setting.prepared.requests("search")["demo_pick"])
    first, again = evaluator.evaluate(job(0.3, ids[:4])).outcome, evaluator.evaluate(job(0.3, ids)).outcome
    evaluator.evaluate(job(0.3, ids[:2], slopes=True))
    assert len(merges) == 1
    other = evaluator.evaluate(job(0.9, ids)).outcome
    evaluator.evaluate(job(0.3, ids))
    assert len(merges) == 3
    assert not isinstance(first, Failure)
    assert not isinstance(again, Failure)
    assert not isinstance(other, Failure)
    measures, likelihoods = again.measures["demo_pick"], other.measures["demo_pick"]["loglikelihood"]
    assert measures["loglikelihood"] != likelihoods
    assert first.measures["demo_pick"]["acc,none"] == {each: measures["acc,none"][each] for each in ids[:4]}


def test_after_a_folder_or_a_failure_it_is_merged_again(
    evaluator: Evaluator, merges: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tuple(each.id for each in evaluator._setting.prepared.requests("search")["demo_pick"])
    before = evaluator.evaluate(job(0.5, ids)).outcome
    evaluator.evaluate(Job("base", "search", folder=BASE, only={"demo_pick": ids}))
    after = evaluator.evaluate(job(0.5, ids)).outcome
    assert len(merges) == 2
    assert not isinstance(before, Failure)
    assert not isinstance(after, Failure)
    assert after.measures == before.measures

    error = MemoryError("out of memory")
    assert is_out_of_memory(error)
    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", lambda *_: (_ for _ in ()).throw(error))
        assert isinstance(evaluator.evaluate(job(0.5, ids)).outcome, Failure)
    assert len(merges) == 2
    evaluator.evaluate(job(0.5, ids))
    assert len(merges) == 3
