"""A whole search, races included, survives any interruption; a race stops losers only and tells what it saved."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.recipe import Recipe
from evolve.config.budget import Budget
from evolve.config.search_yaml import Search
from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.optimizer import Problem
from evolve.search.candidates import recipe_of
from evolve.search.draws import Draws
from evolve.search.loop import search
from evolve.search.race import expected, race
from evolve.search.study import Study
from evolve.search.worth import Worth
from evolve.storage.ledger import Ledger
from evolve.trial import Candidate, Evaluation, Failure, Job, Trial
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Range
from search_spaces.depth import Family
from search_spaces.space import SearchSpace, search_space
from tasks.objective import Goal, Objective, mean_over_tasks
from tasks.score import Score

pytestmark = pytest.mark.usefixtures("unsynchronised")
FAMILY = Family("base", ("org/math", "org/code", "org/chat"), 4, ("embed",), "float32")
DOCUMENTS = {"sums": tuple(range(100, 140)), "colours": tuple(range(64))}
OBJECTIVE = Objective((Goal("sums", "acc,none", 1.0, True), Goal("colours", "acc,none", 3.0, True)))
SELECTION = {"sums": tuple(range(200, 260)), "colours": tuple(range(300, 360))}
WHOLE = sum(map(len, DOCUMENTS.values()))
BEST = (1.1, 0.1, 0.6)


def space_of() -> SearchSpace:
    bounds = {"weight": Range(0.0, 1.5)}
    return search_space(Spec(FAMILY, ("task_arithmetic",), SPACES["blocks"], 1, (), bounds, 0))


def quality(recipe: Recipe) -> float:
    """Best where the sources have the weights of BEST; what has none, such as the base, is poor."""
    slices = recipe.model_dump()["slices"] or [{"sources": []}]
    sections = [model["parameters"]["weight"] for model in slices[0]["sources"] if model["parameters"]]
    gaps = [float(entry["value"]) - best for each, best in zip(sections, BEST, strict=False) for entry in each] or [0.8]
    return 0.9 - sum(gap**2 for gap in gaps) / len(gaps)


def answer(recipe: Recipe, task: str, document: int) -> float:
    """Right or wrong; documents differ in difficulty, which all candidates share, and have a little luck."""
    difficulty = random.Random(f"{task} {document}").random()
    luck = random.Random(f"{recipe.digest} {task} {document}").gauss(0, 0.1)
    return float(quality(recipe) + luck > difficulty)


class Workers:
    """Answers documents, remembers them as the item database does, and is interrupted after `limit` jobs."""

    def __init__(self, kept: dict[tuple[str, str, int], float], limit: int | None = None, seed: int = 0) -> None:
        self.kept, self._limit, self._random = kept, limit, random.Random(seed)
        self.answered = self.jobs = 0

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        order = list(jobs)
        self._random.shuffle(order)
        for job in order:
            if self._limit is not None:
                if self._limit == 0:
                    raise KeyboardInterrupt
                self._limit -= 1
            self.jobs += 1
            assert job.recipe is not None
            if int(job.recipe.digest, 16) % 11 == 0:
                yield job, Evaluation(Failure("merge", "does not merge"))
                continue
            measures = {
                task: {"acc,none": {each: self._answer(job.recipe, task, each) for each in ids}}
                for task, ids in (job.only or {}).items()
            }
            yield job, Evaluation(Score(measures, {}), {"total": 1.0})

    def close(self) -> None:
        pass

    def _answer(self, recipe: Recipe, task: str, document: int) -> float:
        key = recipe.digest, task, document
        if key not in self.kept:
            self.answered += 1
            self.kept[key] = answer(recipe, task, document)
        return self.kept[key]


class Silent:
    def replayed(self, trials: int, moved: int) -> None:
        assert moved == 0

    def finished(self, trial: Trial) -> None:
        pass


def start(
    folder: Path,
    workers: Workers,
    *,
    trials: int = 45,
    documents: int | None = None,
    raced: bool = True,
    sample: int | None = None,
    hours: float | None = None,
) -> tuple[list[Trial], list[dict[str, Any]]]:
    ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "run")
    space = space_of()
    budget = Budget.of(Search(trials=trials, documents=documents, hours=hours), ledger.trials(), [])
    budget.begin()
    study = Study(
        space,
        workers,
        ledger,
        budget,
        OBJECTIVE,
        Draws(DOCUMENTS, 5, sample, raced),
        watcher=Silent(),
        check=lambda: None,
    )
    worth = Worth(study, Draws(SELECTION, 5))
    search(study, OPTIMIZERS["cma"].make, Problem(space.genes, (), 3, 6), over=worth.over)
    assert study.recorded == ledger.trials()
    events = [{key: value for key, value in each.items() if key != "at"} for each in ledger.events()]
    return study.recorded, events


def told(trials: Sequence[Trial]) -> list[tuple[object, ...]]:
    return [(each.id, each.origin, each.digest, each.value, each.whole, each.documents) for each in trials]


@pytest.mark.parametrize("sample", [None, 16])
def test_a_search_that_is_interrupted_anywhere_is_the_same(tmp_path: Path, sample: int | None) -> None:
    (tmp_path / "whole").mkdir()
    straight = Workers({})
    whole, decisions = start(tmp_path / "whole", straight, sample=sample)
    assert len(whole) == 45
    for place in range(0, straight.jobs, 1 + straight.jobs // 5):
        folder = tmp_path / str(place)
        folder.mkdir()
        kept: dict[tuple[str, str, int], float] = {}
        first = Workers(kept, limit=place, seed=place)
        with pytest.raises(KeyboardInterrupt):
            start(folder, first, sample=sample)
        second = Workers(kept, seed=place + 1)
        again, also = start(folder, second, sample=sample)
        assert told(again) == told(whole)
        assert also == decisions
        assert first.answered + second.answered == straight.answered, "a document was answered twice"


def test_a_search_begins_with_what_it_has_to_beat(tmp_path: Path) -> None:
    trials, _ = start(tmp_path, Workers({}))
    origins = [trial.origin for trial in trials]
    assert origins[:8] == [
        "start: base",
        "start: math",
        "start: code",
        "start: chat",
        "start: uniform average",
        "start: task arithmetic, weight 0.3",
        "start: TIES, density 0.2",
        "start: DARE, density 0.1",
    ]
    assert any(origin.startswith("start: greedy soup of 2") for origin in origins)
    assert all(trial.whole or trial.failure for trial in trials[:4]), "gaps and soups are measured on all documents"
    assert all(recipe_of(trial, space_of()).digest == trial.digest for trial in trials)
    assert all((trial.recipe is None) == bool(trial.point) for trial in trials)


def test_races_save_documents(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("raced", "whole")]
    for folder in folders:
        folder.mkdir()
    raced, _ = start(folders[0], Workers({}))
    whole, _ = start(folders[1], Workers({}), raced=False)
    assert all(trial.whole or trial.failure for trial in whole)
    assert sum(trial.documents for trial in raced) < 0.8 * sum(trial.documents for trial in whole)


def test_the_budget_of_documents_is_never_exceeded(tmp_path: Path) -> None:
    trials, events = start(tmp_path, Workers({}), trials=1000, documents=20 * WHOLE)
    asked = sum(event["documents"] for event in events if event["kind"] == "worth")
    assert 18 * WHOLE < sum(trial.documents for trial in trials) + asked <= 20 * WHOLE


def test_chunks_grow_to_all_documents_in_one_order() -> None:
    chunks = Draws(DOCUMENTS, 1).chunks(0)
    assert [sum(map(len, chunk.values())) for chunk in chunks] == [16, 26, 52, 104]
    for smaller, larger in itertools.pairwise(chunks):
        assert all(larger[task][: len(ids)] == ids for task, ids in smaller.items())
    assert {task: sorted(ids) for task, ids in chunks[-1].items()} == {
        task: sorted(ids) for task, ids in DOCUMENTS.items()
    }
    assert Draws(DOCUMENTS, 1).chunks(0) == Draws(DOCUMENTS, 1).chunks(7) == chunks != Draws(DOCUMENTS, 2).chunks(0)
    assert len(Draws({"few": (1, 2, 3)}, 1).chunks(0)) == len(Draws(DOCUMENTS, 1, raced=False).chunks(0)) == 1


def test_draws_go_through_all_documents_before_any_comes_again() -> None:
    draws = Draws(DOCUMENTS, 1, sample=10)
    assert draws.vary
    assert not Draws(DOCUMENTS, 1, sample=64).vary
    assert draws.size == 20
    whole = [draws.chunks(place)[-1] for place in range(12)]
    assert all(len(ids) == 10 for each in whole for ids in each.values())
    sums = [each["sums"] for each in whole]
    for epoch in (sums[0:4], sums[4:8]):
        assert sorted(identity for ids in epoch for identity in ids) == sorted(DOCUMENTS["sums"])
    assert sums[0:4] != sums[4:8]


def test_values_on_other_documents_are_told_as_if_they_were_the_first(tmp_path: Path) -> None:
    """Every answer is right or wrong by the document alone: all candidates are equal, however lucky a draw is."""

    class Lucky(Workers):
        def _answer(self, recipe: Recipe, task: str, document: int) -> float:
            return float(document % 3 == 0)

    trials, _ = start(tmp_path, Lucky({}), sample=9, trials=60)
    values = [trial.value for trial in trials if trial.value is not None and trial.whole]
    assert len(values) > 20
    assert values == pytest.approx([values[0]] * len(values))


def test_a_search_that_finds_nothing_ends_and_says_what_it_saw(tmp_path: Path) -> None:
    class Indifferent(Workers):
        def _answer(self, recipe: Recipe, task: str, document: int) -> float:
            luck = random.Random(f"{recipe.digest} {task} {document}").random()
            return float(document % 2 == 0) if luck < 0.97 else float(luck < 0.985)

    trials, events = start(tmp_path, Indifferent({}), trials=500, documents=100 * WHOLE)
    asked = [event for event in events if event["kind"] == "worth"]
    assert len(asked) >= 2
    assert sum(trial.documents for trial in trials) < 60 * WHOLE
    assert {event["searched"] for event in asked} & {trial.id for trial in trials if trial.origin == "search"}


def test_a_search_that_finds_something_goes_on(tmp_path: Path) -> None:
    trials, events = start(tmp_path, Workers({}), trials=500, documents=60 * WHOLE)
    asked = [event for event in events if event["kind"] == "worth"]
    assert asked
    assert asked[-1]["lead"] > 0
    assert sum(trial.documents for trial in trials) > 50 * WHOLE


def candidates(count: int) -> list[Candidate]:
    generator, space = random.Random(1), space_of()
    points = [tuple(generator.random() for _ in space.genes) for _ in range(count)]
    return [Candidate(place, 0, point, space.decode(point), "search") for place, point in enumerate(points)]


def test_a_race_never_stops_those_that_it_keeps_and_compares_on_common_documents() -> None:
    chunks = Draws(DOCUMENTS, 1).chunks(0)
    asked = candidates(12)
    finishes = list(race(asked, chunks, 4, Workers({}), OBJECTIVE))
    assert sorted(each.candidate.id for each in finishes) == list(range(12))
    sizes = {each.candidate.id: sum(map(len, (each.utilities or {}).values())) for each in finishes}
    assert set(sizes.values()) <= {0, *(sum(map(len, chunk.values())) for chunk in chunks)}
    assert sum(size == WHOLE for size in sizes.values()) >= 4
    assert sum(0 < size < WHOLE for size in sizes.values()) > 0
    best = sorted((each for each in asked if sizes[each.id]), key=lambda each: -quality(each.recipe))[:2]
    assert all(sizes[each.id] == WHOLE for each in best)


def test_what_a_stopped_candidate_would_have_come_to() -> None:
    """It had the easy documents: the others did worse on the rest, and so would it have."""
    stopped = {"a": {1: 1.0, 2: 0.0}}
    others: list[dict[str, dict[int, float]]] = [
        {"a": {1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0}},
        {"a": {1: 1.0, 2: 1.0, 3: 1.0, 4: 0.0}},
    ]
    assert expected(stopped, others)["a"] == pytest.approx(0.5 - (0.5 + 0.25) / 2)
    assert expected(stopped, []) == {"a": 0.5}
    assert mean_over_tasks(stopped, {"a": 1.0}) == 0.5


class Hours(Workers):
    """Every answer takes a minute by the budget's clock."""

    def __init__(self, kept: dict[tuple[str, str, int], float], monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(kept)
        self.now = time.time()
        monkeypatch.setattr("evolve.config.budget.time.time", lambda: self.now)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            yield from super().run([job])
            self.now += 60


def test_hours_end_a_search_within_a_generation_and_more_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("short", "long"):
        (tmp_path / name).mkdir()
    kept: dict[tuple[str, str, int], float] = {}
    first = Hours(kept, monkeypatch)
    began = first.now
    short, _ = start(tmp_path / "short", first, hours=1.0)
    assert 60 <= (first.now - began) / 60 <= 61, "what runs is finished, nothing more is begun"
    second = Hours(kept, monkeypatch)
    whole, decisions = start(tmp_path / "long", second)
    assert told(short) == [each for each in told(whole) if each[0] in {trial.id for trial in short}]
    again, also = start(tmp_path / "short", Hours(kept, monkeypatch))
    assert told(again) == told(whole)
    assert also == decisions
