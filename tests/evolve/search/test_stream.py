"""A search without generations: nobody waits, nothing is scored twice, and what is recorded can be gone on with."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.recipe import Recipe
from evolve.config.budget import Budget
from evolve.config.search_yaml import Search
from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.optimizer import Problem
from evolve.search.draws import Draws
from evolve.search.loop import search
from evolve.search.study import SEARCH, Study
from evolve.storage.ledger import Ledger
from evolve.trial import Evaluation, Failure, Job, Point, Trial
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Choices, Range
from search_spaces.depth import Family
from search_spaces.space import SearchSpace, search_space
from tasks.objective import Goal, Objective
from tasks.score import Score

pytestmark = pytest.mark.usefixtures("unsynchronised")
FAMILY = Family("base", ("math", "code", "chat"), 4, ("embed",), "float32")
DOCUMENTS = {"sums": tuple(range(40)), "colours": tuple(range(64))}
OBJECTIVE = Objective((Goal("sums", "acc,none", 1.0, True), Goal("colours", "acc,none", 3.0, True)))
WHOLE = sum(map(len, DOCUMENTS.values()))
BEST = (1.1, 0.1, 0.6)
STEADY = [name for name, row in OPTIMIZERS.items() if row.steady]


def space_of(coarse: bool = False) -> SearchSpace:
    weight = Choices((0.2, 0.5, 0.8)) if coarse else Range(0.0, 1.5)
    return search_space(Spec(FAMILY, ("task_arithmetic",), SPACES["blocks"], 1, (), {"weight": weight}, 0))


def quality(recipe: Recipe) -> float:
    """Best where the sources have the weights of BEST; what has none, such as the base, is poor."""
    slices = recipe.model_dump()["slices"] or [{"sources": []}]
    sections = [model["parameters"]["weight"] for model in slices[0]["sources"] if model["parameters"]]
    gaps = [float(entry["value"]) - best for each, best in zip(sections, BEST, strict=False) for entry in each] or [0.8]
    return 0.9 - sum(gap**2 for gap in gaps) / len(gaps)


class Cluster:
    """Workers whose candidates take log-normal times, by its own clock; interrupted after `limit` answers."""

    def __init__(self, workers: int, limit: int | None = None, seed: int = 0) -> None:
        self._free, self._limit, self._random = workers, limit, random.Random(seed)
        self.clock = 0.0
        self.answered: list[tuple[str, str, int]] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        pull = iter(jobs)
        running: list[tuple[float, int, Job]] = []
        for number in range(10**6):
            if len(running) < self._free and (job := next(pull, None)) is not None:
                heapq.heappush(running, (self.clock + self._random.lognormvariate(0, 0.6), number, job))
                continue
            if not running:
                return
            if self._limit is not None and len(self.answered) >= self._limit:
                raise KeyboardInterrupt
            self.clock, _, job = heapq.heappop(running)
            yield job, self._answer(job)

    def close(self) -> None:
        pass

    def _answer(self, job: Job) -> Evaluation:
        assert job.recipe is not None
        assert job.only is not None
        if int(job.recipe.digest, 16) % 11 == 0:
            return Evaluation(Failure("merge", "does not merge"))
        fresh = [(job.key, task, each) for task, ids in job.only.items() for each in ids]
        self.answered += [each for each in fresh if each not in self.answered]
        measures = {
            task: {"acc,none": {each: right(job.recipe, task, each) for each in ids}} for task, ids in job.only.items()
        }
        return Evaluation(Score(measures, {}), {"total": 1.0})


def right(recipe: Recipe, task: str, document: int) -> float:
    difficulty = random.Random(f"{task} {document}").random()
    return float(quality(recipe) + random.Random(f"{recipe.digest} {task} {document}").gauss(0, 0.1) > difficulty)


class Told:
    """Who watches: the order in which trials ended."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def replayed(self, trials: int, moved: int) -> None:
        assert moved == 0

    def finished(self, trial: Trial) -> None:
        self.ids.append(trial.id)

    def decided(self, decision: object) -> None:
        pass


def start(
    folder: Path,
    cluster: Cluster,
    *,
    name: str = "cma",
    trials: int = 60,
    documents: int | None = None,
    steady: bool = True,
    raced: bool = True,
    coarse: bool = False,
) -> tuple[list[Trial], Point | None]:
    """One start of the run in `folder`: its trials, and the point that the optimizer believes in."""
    folder.mkdir(exist_ok=True)
    ledger, space, row, told = (
        Ledger(f"sqlite:///{folder / 'study.db'}", "run"),
        space_of(coarse),
        OPTIMIZERS[name],
        Told(),
    )
    budget = Budget.of(Search(trials=trials, documents=documents), ledger.trials(), [])
    draws = Draws(DOCUMENTS, 5, raced=raced)
    study = Study(space, cluster, ledger, budget, OBJECTIVE, draws, watcher=told, check=lambda: None)
    before = len(ledger.trials())
    believed = search(study, row.make, Problem(space.genes, (), 3, 6), steady=row.steady if steady else None)
    recorded = ledger.trials()
    assert [trial.id for trial in recorded] == list(range(len(recorded)))
    if steady and len(recorded) > before:
        assert told.ids[-1] == len(recorded) - 1, "trials are numbered as they end"
    assert study.recorded == recorded
    return recorded, believed


@pytest.mark.parametrize("name", STEADY)
def test_a_search_that_is_interrupted_goes_on(tmp_path: Path, name: str) -> None:
    trials = 24 if name == "gp" else 40
    for limit in (3, 11, 19):
        folder = tmp_path / f"{limit}"
        first, second = Cluster(5, limit * WHOLE // 2, seed=limit), Cluster(3, seed=limit)
        with pytest.raises(KeyboardInterrupt):
            start(folder, first, name=name, trials=trials)
        kept = Ledger(f"sqlite:///{folder / 'study.db'}", "run").trials()
        found, _ = start(folder, second, name=name, trials=trials)
        assert found[: len(kept)] == kept or kept[-1].origin != SEARCH
        assert len(found) == trials


@pytest.mark.parametrize("name", STEADY)
def test_a_recorded_history_replays(tmp_path: Path, name: str) -> None:
    """Told the ledger alone, an optimizer believes what it believed when it made the ledger."""
    trials = 24 if name == "gp" else 60
    found, believed = start(tmp_path / "run", Cluster(5), name=name, trials=trials)
    assert len(found) == trials
    nobody = Cluster(5)
    again, also = start(tmp_path / "run", nobody, name=name, trials=trials)
    assert again == found
    assert also == believed
    assert (believed is None) == (name != "cma")
    assert not nobody.answered


def test_nobody_waits(tmp_path: Path) -> None:
    """Whoever has answered is asked again; a generation waits for its slowest."""
    hours = {}
    for steady in (True, False):
        cluster = Cluster(8)
        start(tmp_path / str(steady), cluster, trials=100, steady=steady, raced=False)
        hours[steady] = cluster.clock
    assert hours[False] > 1.3 * hours[True]  # both with an opening of four small generations


def test_a_search_without_generations_finds_as_much(tmp_path: Path) -> None:
    found: dict[bool, list[float]] = {True: [], False: []}
    for steady in found:
        for seed in range(2):
            _, believed = start(tmp_path / f"{steady} {seed}", Cluster(5, seed=seed), trials=90, steady=steady)
            found[steady].append(quality(space_of().decode(believed or ())))
    assert np.mean(found[True]) > np.mean(found[False]) - 0.02


def test_races_without_a_common_finish_save_documents(tmp_path: Path) -> None:
    raced, _ = start(tmp_path / "raced", Cluster(5))
    whole, _ = start(tmp_path / "whole", Cluster(5), raced=False)
    assert all(trial.whole or trial.failure for trial in whole)
    stopped = [trial for trial in raced if trial.origin == SEARCH and not trial.whole and not trial.failure]
    assert stopped
    assert sum(trial.documents for trial in raced) < 0.9 * sum(trial.documents for trial in whole)
    assert max(raced, key=lambda trial: trial.value or 0.0).whole


def test_a_recipe_is_scored_once(tmp_path: Path) -> None:
    """Twenty-seven recipes: points come to the same ones again and again, also while these are being scored."""
    cluster = Cluster(5)
    found, _ = start(tmp_path / "run", cluster, trials=80, coarse=True, raced=False)
    assert len(found) == 80
    scored = [trial for trial in found if trial.failure is None]
    assert len({trial.digest for trial in scored}) < 35
    assert len(cluster.answered) == WHOLE * len({trial.digest for trial in scored})
    for digest in {trial.digest for trial in scored}:
        twins = [trial for trial in scored if trial.digest == digest]
        assert [trial.documents > 0 for trial in twins] == [True] + [False] * (len(twins) - 1)
        assert len({trial.value for trial in twins}) == 1


def test_the_budget_of_documents_ends_it(tmp_path: Path) -> None:
    found, _ = start(tmp_path / "run", Cluster(5), documents=30 * WHOLE, raced=False)
    assert 29 * WHOLE <= sum(trial.documents for trial in found) <= 30 * WHOLE
