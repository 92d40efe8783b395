"""No document is asked twice of a candidate: real models, with their forward passes counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.recipe import Recipe
from evolve.config.search_yaml import SearchConfig
from evolve.preparation.setting import Setting
from evolve.storage.items import Items
from evolve.trial import Evaluation, Failure, Job
from evolve.workers import remembering
from evolve.workers.evaluator import Evaluator
from evolve.workers.executor import InProcess
from evolve.workers.remembering import Keys, Remembering
from tasks.score import Score, Scorer

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, REVERSE, SORT = (str(DEMO / "models" / name) for name in ("base", "reverse", "sort"))
TASKS = {"demo_reverse": "exact_match", "demo_pick": "acc"}


def setting(*tasks: str, **changes: Any) -> Setting:
    score = {
        "tasks": [{"task": task, "metric": TASKS[task]} for task in tasks or TASKS],
        "include": [str(DEMO)],
        "documents": {"search": 6, "selection": 5, "report": 4},
        "dtype": "float32",
        **changes,
    }
    return Setting(
        SearchConfig.model_validate({"name": "r", "models": {"base": BASE, "sources": [REVERSE, SORT]}, "score": score})
    )


def job(weight: float, documents: Any = "search") -> Job:
    recipe = Recipe.model_validate(
        {
            "merge_method": "task_arithmetic",
            "base_model": BASE,
            "models": [{"model": REVERSE, "parameters": {"weight": weight}}],
            "dtype": "float32",
        }
    )
    return Job(key=recipe.digest, documents=documents, recipe=recipe)


class Counting:
    """An executor in this process, which notes what is asked and how often the model runs."""

    def __init__(self, made: Setting) -> None:
        self.evaluator = Evaluator(made.config)
        self.inner = InProcess(self.evaluator)
        self.asked: list[Job] = []
        self.passes = 0
        module = self.evaluator._resident.module
        assert module is not None
        module.register_forward_pre_hook(lambda *_: setattr(self, "passes", self.passes + 1))

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for each in jobs:
            self.asked.append(each)
            yield from self.inner.run([each])

    def close(self) -> None: ...


@contextmanager
def counted(made: Setting, folder: Path) -> Iterator[tuple[Remembering, Counting]]:
    inner = Counting(made)
    yield Remembering(inner, Items(folder), Keys(made)), inner


def measures(executor: Remembering, *jobs: Job) -> dict[str, Any]:
    found = {}
    for done, evaluation in executor.run(jobs):
        assert isinstance(evaluation.outcome, Score), evaluation.outcome
        found[done.key] = evaluation.outcome.measures
    return found


def test_a_second_start_runs_no_model_and_finds_the_same(tmp_path: Path) -> None:
    jobs = [job(0.5), job(0.7), job(0.5, "selection")]
    with counted(setting(), tmp_path) as (executor, inner):
        first = [(each, evaluation.outcome) for each, evaluation in executor.run(jobs)]
        assert inner.passes > 0
        assert inner.asked == jobs
        before = inner.passes
        measures(executor, *jobs)
        assert inner.passes == before
    with counted(setting(), tmp_path) as (executor, inner):
        again = [(each, evaluation.outcome) for each, evaluation in executor.run(jobs)]
        assert inner.passes == 0
        assert inner.asked == []
    for (one, ours), (other, theirs) in zip(first, again, strict=True):
        assert one == other
        assert isinstance(ours, Score)
        assert isinstance(theirs, Score)
        assert theirs.measures == ours.measures
        assert set(ours.measures["demo_pick"]) >= {"acc,none", "loglikelihood", "gold_tokens"}


def test_what_changes_no_answer_asks_nothing(tmp_path: Path) -> None:
    with counted(setting(), tmp_path) as (executor, _):
        whole = measures(executor, job(0.5))[job(0.5).key]
    heavier = [{"task": task, "metric": metric, "weight": 3.0} for task, metric in reversed(TASKS.items())]
    for changes in (
        {"objective": "loglikelihood", "loglikelihood_unit": "byte"},
        {"tasks": heavier},
        {"batch_tokens": 64},
        {"include": [str(DEMO), str(tmp_path)]},
    ):
        with counted(setting(**changes), tmp_path) as (executor, inner):
            assert measures(executor, job(0.5))[job(0.5).key] == whole, changes
            assert inner.passes == 0, changes


def test_another_set_of_tasks_asks_only_what_is_new(tmp_path: Path) -> None:
    with counted(setting("demo_reverse"), tmp_path) as (executor, _):
        part = measures(executor, job(0.5))[job(0.5).key]
    made = setting()
    with counted(made, tmp_path) as (executor, inner):
        whole = measures(executor, job(0.5))[job(0.5).key]
        (asked,) = inner.asked
        assert asked.only == {"demo_pick": made.prepared.documents["demo_pick"].search}
        assert whole["demo_reverse"] == part["demo_reverse"]
    with counted(made, tmp_path / "new") as (executor, inner):
        alone = measures(executor, job(0.5))[job(0.5).key]
        assert inner.asked[0].only is None
    assert {task: set(each) for task, each in alone.items()} == {task: set(each) for task, each in whole.items()}
    assert alone["demo_pick"]["acc,none"] == whole["demo_pick"]["acc,none"]


def test_a_lost_file_costs_its_documents_only(tmp_path: Path) -> None:
    with counted(setting(), tmp_path) as (executor, _):
        measures(executor, job(0.5), job(0.7))
    (tmp_path / "0-00000000.parquet").write_bytes(b"damaged")
    with counted(setting(), tmp_path) as (executor, inner):
        measures(executor, job(0.5), job(0.7))
        assert [each.key for each in inner.asked] == [job(0.5).key]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no room"),
        MemoryError("no room"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_was_scored_before_memory_ran_out_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    score = Scorer.score

    def small(self: Scorer, which: Any, only: Any = None) -> Score:
        if only is None or "demo_pick" in only:
            raise error
        return score(self, which, only)

    with counted(setting(), tmp_path) as (executor, inner):
        with monkeypatch.context() as patch:
            patch.setattr(Scorer, "score", small)
            ((_, evaluation),) = executor.run([job(0.5)])
            assert evaluation.outcome == Failure("memory", str(error))
            assert inner.passes > 0
        ((_, evaluation),) = executor.run([job(0.5)])
        assert isinstance(evaluation.outcome, Score)
        assert list(inner.asked[1].only or {}) == ["demo_pick"]
        whole = evaluation.outcome.measures
    with counted(setting(), tmp_path / "new") as (executor, _):
        alone = measures(executor, job(0.5))[job(0.5).key]
        assert alone["demo_reverse"]["exact_match,none"] == whole["demo_reverse"]["exact_match,none"]


class Scripted:
    """An executor whose candidates fail or score as told."""

    def __init__(self, made: Setting, fails: str = "") -> None:
        self._made, self._fails, self.asked = made, fails, list[str]()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for each in reversed([*jobs]):
            self.asked.append(each.key)
            if each.key == self._fails:
                yield each, Evaluation(Failure("not finite", "NaN"))
                continue
            requests = self._made.prepared.requests(each.documents)
            values = {task: {"acc,none": {one.id: 1.0 for one in documents}} for task, documents in requests.items()}
            yield each, Evaluation(Score(values, {"forward": 2.0}), {"total": 3.0})

    def close(self) -> None: ...


def test_scores_stand_in_the_database_before_anybody_hears_of_them(tmp_path: Path) -> None:
    made = setting()
    jobs = [job(weight / 10) for weight in range(5)]
    inner = Scripted(made)
    answers = Remembering(inner, Items(tmp_path), Keys(made)).run(jobs)
    done, _ = next(answers)
    kept = Items(tmp_path).known(Keys(made).candidate(done))
    assert len(kept) == 12
    del answers  # as an interruption leaves it
    again = Scripted(made)
    assert len(list(Remembering(again, Items(tmp_path), Keys(made)).run(jobs))) == 5
    assert done.key not in again.asked
    assert len(again.asked) == 4


def test_failures_are_handed_on_and_tried_again(tmp_path: Path) -> None:
    made = setting()
    first, second = job(0.1), job(0.2)
    inner = Scripted(made, fails=second.key)
    executor = Remembering(inner, Items(tmp_path), Keys(made))
    outcomes = {each.key: evaluation.outcome for each, evaluation in executor.run([first, second])}
    assert outcomes[second.key] == Failure("not finite", "NaN")
    list(executor.run([first, second]))
    assert inner.asked == [second.key, first.key, second.key]


def test_whatever_an_answer_depends_on_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = setting(), job(0.5)
    keys = [
        Keys(made).candidate(asked),
        Keys(made).candidate(job(0.6)),
        Keys(setting(dtype="bfloat16")).candidate(asked),
        Keys(setting(max_length=64)).candidate(asked),
        Keys(made).candidate(Job(key=f"checkpoint of {asked.key}", documents="search", folder="out")),
    ]
    for version in ("SCORER_VERSION", "MERGE_VERSION"):
        monkeypatch.setattr(remembering, version, -1)
        keys.append(Keys(made).candidate(asked))
        monkeypatch.undo()
    other = setting()
    monkeypatch.setattr(other.checkpoints[REVERSE], "_fingerprint", "trained on")
    keys.append(Keys(other).candidate(asked))
    assert len(set(keys)) == len(keys)
    unused = setting()
    monkeypatch.setattr(unused.checkpoints[SORT], "_fingerprint", "trained on")
    assert Keys(unused).candidate(asked) == keys[0], "a model that the recipe does not name"
    assert Keys(setting(objective="loglikelihood")).candidate(asked) == keys[0]
