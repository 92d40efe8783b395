"""A climb rises, is a function of what is on record, and ends by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolve.config.budget import Budget
from evolve.config.search_yaml import SearchConfig
from evolve.optimizers import OPTIMIZERS
from evolve.preparation.course import climbed_by, summary
from evolve.preparation.setting import Setting
from evolve.search import descent
from evolve.search.descent import Descent, Reached, Remember, Step, descend, ended
from evolve.search.draws import Draws
from evolve.search.loop import search
from evolve.search.steps import RATIO, Settings, batches, charge
from evolve.search.study import Study
from evolve.storage.ledger import Ledger
from evolve.trial import Evaluation, Failure, Job, Point, Trial
from evolve.watching.progress import ProgressLog
from evolve.workers.evaluator import Evaluator
from evolve.workers.executor import Executor, InProcess
from tasks.objective import Goal, Objective

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, REVERSE, SORT = (str(DEMO / "models" / name) for name in ("base", "reverse", "sort"))
FEW = Settings(batch=4, most=6)


def config(method: str = "task_arithmetic") -> SearchConfig:
    return SearchConfig.model_validate(
        {
            "name": "small",
            "models": {"base": BASE, "sources": [REVERSE, SORT]},
            "space": {"method": method, "layers": 3, "modules": ["mlp"]},
            "score": {
                "tasks": [{"task": f"demo_{n}", "metric": "exact_match"} for n in ("reverse", "sort")],
                "include": [str(DEMO)],
                "documents": {"search": 8, "selection": 8, "report": 8},
                "dtype": "float32",
            },
        }
    )


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(config())


class Record:
    """As a ledger: facts by number; the first ones may be known."""

    def __init__(self, known: list[dict[str, Any]] | None = None) -> None:
        self.facts, self.read, self.made, self.documents = list(known or []), 0, 0, 0

    def __call__(self, facts: Callable[[], dict[str, Any]], documents: int) -> Mapping[str, Any]:
        if self.read == len(self.facts):
            self.facts.append(facts())
            self.made += 1
        self.read += 1
        self.documents += self.facts[self.read - 1].get("documents", documents)
        return self.facts[self.read - 1]


def silent(_: str) -> None:
    """Nobody listens."""


def climb(
    evaluator: Evaluator,
    record: Record,
    settings: Settings = FEW,
    tell: Callable[[str], None] = silent,
    executor: Executor | None = None,
    reached: Reached = lambda _: False,
) -> Descent:
    setting: Setting = evaluator._setting
    ids = {task: [each.id for each in its] for task, its in setting.prepared.requests("search").items()}
    space = setting.space
    return descend(
        space,
        space.start[-1],
        executor or InProcess(evaluator),
        setting.checkpoints,
        ids,
        1,
        remember=record,
        settings=settings,
        tell=tell,
        reached=reached,
    )


def test_it_rises_and_is_walked_again_from_the_record(evaluator: Evaluator) -> None:
    record = Record()
    first = climb(evaluator, record)
    assert len(first.steps) == record.made == 6
    assert first.charged == record.documents == 6 * charge({"a": range(8)})
    assert first.steps[-1].value + first.steps[-2].value > first.steps[0].value + first.steps[1].value + 0.1
    assert all(0 <= x <= 1 for point in first.points for x in point)
    assert len(first.importance) == len(evaluator._setting.space.genes)
    assert max(first.importance) > 0
    again = Record(record.facts)
    assert climb(evaluator, again) == first
    assert again.made == 0
    cut, heard = Record(record.facts[:3]), list[str]()
    assert climb(evaluator, cut, tell=heard.append) == first
    assert cut.made == 3
    assert [line.rsplit(" ", 1)[0] for line in heard] == [
        f"gradient step {number} of 6, chance of a right answer" for number in (4, 5, 6)
    ]
    assert float(heard[-1].split()[-1]) == pytest.approx(first.steps[-1].value, abs=1e-3)


def test_it_ends_where_climbing_on_is_in_vain(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = climb(evaluator, Record())
    monkeypatch.setattr(descent, "SPACING", 2)
    seen: list[Point] = []

    def reached(point: Point) -> bool:
        seen.append(point)
        return len(seen) == 2

    found = climb(evaluator, Record(), reached=reached)
    assert found.reason == descent.FRUITLESS
    assert found.steps == whole.steps[:4]
    assert list(found.points) == seen
    every = climb(evaluator, Record())
    assert [len(each.points) for each in (whole, every)] == [1, 3]
    assert every.points[:2] == found.points
    assert every.points[2] == whole.points[0]
    assert climb(evaluator, Record(), reached=lambda point: point == whole.points[0]).reason == descent.FRUITLESS


def test_a_climb_that_the_budget_ends_is_not_lost(evaluator: Evaluator, tmp_path: Path) -> None:
    setting = evaluator._setting
    documents = {task: tuple(each.id for each in its) for task, its in setting.prepared.requests("search").items()}
    before: list[int] = []
    climbs: list[Descent] = []

    def run(ledger: Ledger, bound: int | None, trials: int) -> list[Trial]:
        study = Study(
            setting.space,
            InProcess(evaluator),
            ledger,
            Budget(trials, None, bound, 0.0, time.time()),
            setting.objective,
            Draws(documents, 0, raced=False),
            watcher=ProgressLog(),
            check=lambda: None,
        )

        def climb(start: Point, remember: Remember, weights: object, reached: Reached) -> Descent:
            before.append(study.documents)
            scoring = study.draws.size
            climbs.append(
                descend(
                    setting.space,
                    start,
                    study.executor,
                    setting.checkpoints,
                    documents,
                    1,
                    remember=remember,
                    settings=FEW,
                    scoring=scoring,
                    reached=reached,
                )
            )
            return climbs[-1]

        problem = replace(setting.problem, population=4)
        search(study, OPTIMIZERS["random"].make, problem, climb=climb)
        return study.recorded

    whole = run(Ledger(f"sqlite:///{tmp_path / 'whole.db'}", "whole"), None, 40)
    step, candidate = charge({"a": range(8)}), 16
    ledger = Ledger(f"sqlite:///{tmp_path / 'cut.db'}", "cut")
    cut = run(ledger, before[0] + 3 * step + candidate + 1, 40)
    assert climbs[1].reason == "the budget bears no more"
    assert climbs[1].steps == climbs[0].steps[:3]
    assert [trial.point for trial in cut if trial.origin == "gradient"] == list(climbs[1].points)
    more = run(ledger, None, len(cut) + 4)
    assert climbs[2] == climbs[1]
    assert more[: len(cut)] == cut
    assert [each.digest for each in whole[: len(cut) - 1]] == [each.digest for each in cut[:-1]]
    assert len(more) == len(cut) + 4


class Broken:
    """Answers with NaN for the first recipes that it meets after `good` of them."""

    def __init__(self, worker: InProcess, good: int, bad: int) -> None:
        self._worker, self._good, self._bad, self.met = worker, good, bad, list[str]()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            self.met.append(job.key)
            if self._good < len(self.met) <= self._good + self._bad:
                yield job, Evaluation(Failure("not finite", "NaN"))
            else:
                yield from self._worker.run([job])

    def close(self) -> None: ...


@pytest.mark.parametrize(("bad", "steps"), [(1, 6), (2, 6), (3, 2)])
def test_a_step_that_is_not_finite_is_gone_half_back(evaluator: Evaluator, bad: int, steps: int) -> None:
    broken, record = Broken(InProcess(evaluator), 2, bad), Record()
    found = climb(evaluator, record, executor=broken)
    assert len(found.steps) == steps
    assert len(set(broken.met)) == len(broken.met)  # no recipe twice
    assert found.reason == ("NaN" if bad == 3 else "6 steps are the most")
    failed = broken.met[2 : 2 + bad]
    assert not {evaluator._setting.space.decode(point).digest for point in found.points} & {*failed}
    assert climb(evaluator, Record(record.facts), executor=broken) == found
    assert found.charged == len(broken.met) * charge({"a": range(8)})


def test_what_has_no_slopes_ends_it() -> None:
    record = Record()
    found = climb(Evaluator(config("sce")), record)
    assert found.steps == found.points == ()
    assert found.charged == record.documents == 0
    assert "sce" in found.reason
    assert summary(found, "chance", "") == f"gradients: no step was made: {found.reason}"


def test_every_document_is_taken_once_a_round() -> None:
    ids = {"a": list(range(20)), "b": list(range(100, 103)), "c": []}
    settings = Settings(batch=8, most=6)
    taken = batches(ids, settings, seed=3)
    assert len(taken) == 6
    for begin in (0, 2, 4):
        assert sorted(taken[begin]["a"] + taken[begin + 1]["a"]) == ids["a"]
    assert all(batch["b"] == (100, 101, 102) and "c" not in batch for batch in taken)
    assert taken == batches(ids, settings, seed=3)
    assert taken != batches(ids, settings, seed=4)
    assert taken[:4] == batches(ids, replace(settings, most=4), seed=3)


def test_a_round_that_is_no_better_ends_it() -> None:
    ids = {"a": list(range(40))}
    settings = Settings(batch=8, patience=1)

    def steps(*rounds: float) -> list[Step]:
        return [Step((), value + 0.1 * (place - 2), ()) for value in rounds for place in range(5)]

    assert not ended(steps(-1.0), ids, settings)
    assert not ended(steps(-1.0, -0.9), ids, settings)
    assert ended(steps(-1.0, -0.9, -0.9), ids, settings)
    assert not ended(steps(-1.0, -0.9, -0.95)[:-1], ids, settings)
    assert not ended(steps(-1.0, -0.9, -0.95), ids, replace(settings, patience=2))


def test_what_is_climbed_is_called_by_its_name() -> None:
    accuracy, text = Goal("a", "acc,none", 1.0, True), Goal("t", "word_perplexity,none", 1.0, False, "perplexity")
    assert climbed_by(Objective((accuracy,))) == "chance of a right answer"
    assert "log-likelihood" in climbed_by(Objective((accuracy,), metric=0.0, loglikelihood=1.0))
    assert "log-likelihood" in climbed_by(Objective((text,)))
    for mixed in (Objective((accuracy, text)), Objective((accuracy,), loglikelihood=0.2)):
        assert "chance" not in climbed_by(mixed)
        assert "log-likelihood" not in climbed_by(mixed)


def test_documents_are_charged_at_what_they_take() -> None:
    assert charge({"a": (1, 2), "b": (3,)}) == -(-RATIO * 3 // 1)
