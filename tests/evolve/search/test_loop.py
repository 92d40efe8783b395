"""The search survives any interruption: what it finds is what an uninterrupted search finds."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from engine.recipe import Recipe
from evolve.config.budget import Budget
from evolve.config.search_yaml import Search
from evolve.errors import RunError
from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.optimizer import Problem
from evolve.search.draws import Draws
from evolve.search.loop import generations
from evolve.search.opening import most_candidates, opening
from evolve.search.standing import Standing
from evolve.search.study import Spent, Study, proposal
from evolve.storage.ledger import Ledger
from evolve.trial import Evaluation, Failure, Job, Outcome, Trial
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Choices, Range
from search_spaces.depth import Family
from search_spaces.space import SearchSpace, search_space
from tasks.objective import Goal, Objective
from tasks.score import Score

pytestmark = pytest.mark.usefixtures("unsynchronised")
FAMILY = Family("base", ("math", "code"), 4, ("embed",), "float32")
DOCUMENTS = 5
WEIGHTS = {"sums": 1.0, "colours": 3.0}
DRAWS = Draws({task: tuple(range(DOCUMENTS)) for task in WEIGHTS}, 0, raced=False)
OBJECTIVE = Objective(tuple(Goal(task, "acc,none", weight, True) for task, weight in WEIGHTS.items()))
Judge = Callable[[Recipe], Outcome]


def space_of(kind: str = "plain") -> SearchSpace:
    if kind == "mixed":
        return search_space(Spec(FAMILY, ("ties", "linear"), SPACES["blocks"], 2, (), {}, 0))
    if kind == "coarse":  # twelve recipes: points meet again and again
        choices = {
            "weight": Choices((0.2, 0.5, 0.8)),
            "density": Choices((0.2, 1.0)),
            "normalize": Choices((True, False)),
        }
        return search_space(Spec(FAMILY, ("ties",), SPACES["blocks"], 1, (), choices, 0))
    return search_space(Spec(FAMILY, ("task_arithmetic",), SPACES["blocks"], 1, (), {"weight": Range(0.0, 1.5)}, 0))


def numbers(node: object) -> list[float]:
    if isinstance(node, dict):
        return [each for value in node.values() for each in numbers(value)]
    if isinstance(node, list | tuple):
        return [each for value in node for each in numbers(value)]
    return [float(node)] if isinstance(node, int | float) else []


def judge(recipe: Recipe) -> Outcome:
    """A cheap deterministic score of the recipe's numbers."""
    found = numbers(recipe.model_dump(exclude={"seed"}))
    value = -sum((each - 0.6) ** 2 for each in found) / max(1, len(found))
    values = {task: {"acc,none": {i: value + i / 10 for i in range(DOCUMENTS)}} for task in WEIGHTS}
    return Score(values, {"forward": 0.0, "other": 0.0})


def judge_with_failures(recipe: Recipe) -> Outcome:
    if int(recipe.digest, 16) % 3 == 0:
        return Failure("merge", f"{recipe.digest[:8]}: does not merge")
    return judge(recipe)


class Workers:
    """Yields results in a shuffled order, and is interrupted after `limit` of them."""

    def __init__(self, judge: Judge = judge, shuffle: int | None = None, limit: int | None = None) -> None:
        self._judge, self._limit = judge, limit
        self._random = None if shuffle is None else random.Random(shuffle)
        self.done: list[str] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        order = list(jobs)
        if self._random is not None:
            self._random.shuffle(order)
        for job in order:
            if self._limit is not None and len(self.done) >= self._limit:
                raise KeyboardInterrupt
            assert job.recipe is not None
            assert job.documents == "search"
            self.done.append(job.key)
            yield job, Evaluation(self._judge(job.recipe), {"total": 0.1})

    def close(self) -> None:
        pass


class Silent:
    def __init__(self) -> None:
        self.replays: list[tuple[int, int]] = []
        self.seen: list[int] = []

    def replayed(self, trials: int, moved: int) -> None:
        self.replays.append((trials, moved))

    def finished(self, trial: Trial) -> None:
        self.seen.append(trial.id)


def start(
    folder: Path,
    name: str,
    workers: Workers,
    *,
    trials: int = 20,
    documents: int | None = None,
    population: int | None = 5,
    kind: str = "plain",
    watcher: Silent | None = None,
    check: Callable[[], None] = lambda: None,
    seed: int = 1,
) -> list[Trial]:
    """One start of the run that stands in `folder`, as `evolve run` makes it."""
    ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "run")
    space = space_of(kind)
    size = population or OPTIMIZERS[name].population(len(space.genes))
    before = ledger.trials()
    budget = Budget.of(Search(trials=trials, documents=documents), before, ledger.events("start"))
    ledger.add_event("start", trials=len(before))
    optimizer = OPTIMIZERS[name].make(Problem(space.genes, space.start, seed, size))
    study = Study(space, workers, ledger, budget, OBJECTIVE, DRAWS, watcher=watcher or Silent(), check=check)
    with suppress(Spent):
        generations(study, optimizer, (), Standing(OBJECTIVE))
    assert study.recorded == ledger.trials()
    return study.recorded


def timeless(trials: Sequence[Trial]) -> list[Trial]:
    return [replace(trial, finished=0.0) for trial in trials]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger without trials: making its tables is most of what a short test would do."""
    path = tmp_path_factory.mktemp("empty") / "study.db"
    Ledger(f"sqlite:///{path}", "run")
    return path


@pytest.fixture
def folder(tmp_path: Path, empty: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        shutil.copy(empty, tmp_path / name)
        return tmp_path / name

    return make


Make = Callable[[str], Path]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("function", [judge, judge_with_failures])
def test_interrupted_anywhere_the_search_is_the_same(folder: Make, name: str, function: Judge) -> None:
    trials, kind = (13, "plain") if function is judge else (15, "mixed")
    whole = timeless(start(folder("whole"), name, Workers(function), trials=trials, kind=kind))
    assert [trial.id for trial in whole] == list(range(trials))
    for point in range(0, trials, 1 if (name, kind) == ("cma", "plain") else 6):
        place = folder(f"at {point}")
        with pytest.raises(KeyboardInterrupt):
            start(place, name, Workers(function, shuffle=point, limit=point), trials=trials, kind=kind)
        workers = Workers(function, shuffle=point + 1)
        assert timeless(start(place, name, workers, trials=trials, kind=kind)) == whole
        assert len(workers.done) == trials - point, "something was evaluated twice"


def test_interrupted_after_every_result(folder: Make) -> None:
    whole = timeless(start(folder("whole"), "cma", Workers(), trials=13))
    place = folder("pieces")
    for attempt in range(12):
        with pytest.raises(KeyboardInterrupt):
            start(place, "cma", Workers(shuffle=attempt, limit=1), trials=13)
    assert timeless(start(place, "cma", Workers(), trials=13)) == whole


def test_the_order_of_results_changes_nothing(folder: Make) -> None:
    straight = start(folder("straight"), "cma", Workers())
    assert timeless(start(folder("shuffled"), "cma", Workers(shuffle=5))) == timeless(straight)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("trials", [1, 4, 5, 11])
def test_the_budget_of_trials_is_exact(folder: Make, name: str, trials: int) -> None:
    found = start(folder("run"), name, Workers(), trials=trials)
    assert [trial.id for trial in found] == list(range(trials))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("short", [2, 7, 14])
def test_a_budget_raised_later_equals_one_long_run(folder: Make, name: str, short: int) -> None:
    whole = timeless(start(folder("whole"), name, Workers(), trials=19))
    place = folder("raised")
    start(place, name, Workers(shuffle=1), trials=short)
    assert timeless(start(place, name, Workers(shuffle=2), trials=19)) == whole


def test_a_finished_search_evaluates_nothing_and_a_lowered_budget_drops_nothing(folder: Make) -> None:
    place = folder("run")
    whole = start(place, "cma", Workers(), trials=12)
    workers = Workers()
    assert start(place, "cma", workers, trials=12) == whole
    assert start(place, "cma", workers, trials=5) == whole
    assert workers.done == []


def test_the_budget_of_documents_ends_the_search(folder: Make) -> None:
    each = DOCUMENTS * len(WEIGHTS)
    found = start(folder("run"), "cma", Workers(), trials=100, documents=10 * each)
    assert len(found) == 10


@pytest.mark.parametrize("limit", [0, 6, 9, 12])
def test_the_budget_of_documents_is_the_same_after_an_interruption(folder: Make, limit: int) -> None:
    """The budget is asked where a generation begins, wherever the search was interrupted."""
    budget = 10 * DOCUMENTS * len(WEIGHTS)
    whole = start(folder("whole"), "cma", Workers(), trials=100, documents=budget)
    place = folder("pieces")
    with pytest.raises(KeyboardInterrupt):
        start(place, "cma", Workers(shuffle=3, limit=min(limit, len(whole) - 1)), trials=100, documents=budget)
    assert timeless(start(place, "cma", Workers(), trials=100, documents=budget)) == timeless(whole)


def test_what_of_the_budget_is_used_up() -> None:
    now = time.time()
    budget = Budget.of(Search(trials=10, documents=100), [], [{"at": now}])
    assert budget.used_up(9, 90, 10) == ""
    assert budget.used_up(10, 0, 10) == "search.trials (10) is used up"
    assert budget.used_up(9, 91, 10) == "search.documents (100) is used up"
    over = Budget.of(Search(trials=10, hours=0.5), [Trial(0, 0, (), "", 0.1, finished=now - 10)], [{"at": now - 9000}])
    assert over.used_up(3, 0, 10) == over.used_up(10, 0, 10) == "search.hours (0.5) are over"


def test_genes_that_a_method_leaves_aside_make_no_further_candidates(folder: Make) -> None:
    """Linear merging has no scale, so that its start points are one recipe."""
    space = search_space(Spec(FAMILY, ("ties", "linear"), SPACES["blocks"], 1, (), {}, 0, scale=Range(0.3, 1.8)))
    ledger = Ledger(f"sqlite:///{folder('run') / 'study.db'}", "run")
    budget = Budget.of(Search(trials=99), [], [])
    study = Study(space, Workers(), ledger, budget, OBJECTIVE, DRAWS, watcher=Silent(), check=lambda: None)
    opening(study, normalize=False)
    digests = Counter(trial.digest for trial in study.trials if trial.origin.startswith("start: linear"))
    assert digests
    assert set(digests.values()) == {1}
    assert len(study.trials) <= most_candidates(space)


def test_a_generation_that_the_budget_cuts_used_it_up(folder: Make) -> None:
    """Also where its candidates failed, which costs no documents."""
    each = DOCUMENTS * len(WEIGHTS)
    ledger = Ledger(f"sqlite:///{folder('run') / 'study.db'}", "run")
    budget = Budget.of(Search(trials=99, documents=7 * each), [], [])
    workers = Workers(lambda recipe: Failure("merge", "no") if recipe.models else judge(recipe))
    study = Study(space_of(), workers, ledger, budget, OBJECTIVE, DRAWS, watcher=Silent(), check=lambda: None)
    assert study.used_up == ""
    models = [proposal(study, (0.1 * n,) * len(study.space.genes), "search") for n in range(9)]
    with pytest.raises(Spent):
        study.score(models)
    assert len(study.recorded) == 7
    assert study.used_up == f"search.documents ({7 * each}) is used up"


def test_an_opening_scores_every_plain_merge_once(folder: Make) -> None:
    space = space_of()
    ledger = Ledger(f"sqlite:///{folder('run') / 'study.db'}", "run")
    study = Study(space, Workers(), ledger, Budget.of(Search(), [], []), OBJECTIVE, DRAWS, watcher=Silent(),
                  check=lambda: None)  # fmt: skip
    opening(study, normalize=False)
    origins = [trial.origin.removeprefix("start: ") for trial in study.trials]
    assert {"base", "uniform average", "task arithmetic, weight 0.3"} <= {*origins}
    assert not {"task_arithmetic, weight 0.5", "task_arithmetic, weight 0.3"} & {*origins}


def test_the_budget_of_hours_counts_earlier_starts() -> None:
    def at(seconds: float) -> Trial:
        return Trial(0, 0, (0.5,), "", 0.1, finished=seconds)

    now = time.time()
    starts = [{"at": now - 9000}, {"at": now - 5000}]
    budget = Budget.of(Search(trials=10, hours=1.0), [at(now - 8000), at(now - 7500), at(now - 4000)], starts)
    assert budget.used_seconds == pytest.approx(1500 + 1000)
    assert budget.candidates(0) == 10
    assert Budget.of(Search(trials=10, hours=0.5), [at(now - 8000), at(now - 4000)], starts[:1]).candidates(0) == 0


def test_failures_are_recorded_and_told_as_finite_values(folder: Make) -> None:
    found = start(folder("run"), "cma", Workers(judge_with_failures), trials=30)
    failed = [trial for trial in found if trial.failure]
    assert 0 < len(failed) < 30
    assert all(trial.value is None and trial.documents == 0 for trial in failed)
    worst = min(trial.value for trial in found[:10] if trial.value is not None)
    standing = Standing(OBJECTIVE)
    standing.meet(found[:10])
    for trial, value, _ in standing.ranked(found[5:10]):
        assert value == pytest.approx(trial.value) if trial.value is not None else value < worst


def test_observations_of_failures_alone_are_finite() -> None:
    failed = [Trial(i, 0, (0.5,), "", None, failure=Failure("merge", "no")) for i in range(3)]
    assert [value for _, value, _ in Standing(OBJECTIVE).ranked(failed)] == [-1e-3] * 3


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e300])
def test_an_objective_that_is_not_finite_is_a_failure(folder: Make, value: float) -> None:
    place = folder("run")
    values = {task: {"acc,none": {0: value, 1: 1.0, **dict.fromkeys(range(2, DOCUMENTS), 0.0)}} for task in WEIGHTS}
    with pytest.raises(RunError, match="not finite"):
        start(place, "cma", Workers(lambda _: Score(values, {})), trials=5)
    assert [trial.value for trial in Ledger(f"sqlite:///{place / 'study.db'}", "run").trials()] == [None] * 5


def test_all_of_the_first_generation_failed(folder: Make) -> None:
    place = folder("run")
    for _ in range(2):  # also when it is started again
        with pytest.raises(RunError, match=r"all of the first 5 candidates failed \(memory: does not fit\)"):
            start(place, "cma", Workers(lambda _: Failure("memory", "does not fit")), trials=30)
    assert len(Ledger(f"sqlite:///{place / 'study.db'}", "run").trials()) == 5


def test_a_later_generation_may_fail_whole(folder: Make) -> None:
    count = 0

    def weary(recipe: Recipe) -> Outcome:
        nonlocal count
        count += 1
        return judge(recipe) if count <= 5 else Failure("memory", "no more")

    found = start(folder("run"), "cma", Workers(weary), trials=30)
    assert [trial.failure is None for trial in found] == [True] * 5 + [False] * 25


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("function", [judge, judge_with_failures])
def test_a_recipe_is_scored_once(folder: Make, name: str, function: Judge) -> None:
    workers = Workers(function, shuffle=0)
    found = start(folder("run"), name, workers, trials=24, kind="coarse")
    scored = [trial.digest for trial in found if trial.value is not None]
    assert len(set(scored)) < len(scored), "no duplicate to speak of"
    successes = [key for key in workers.done if key in scored]
    assert len(successes) == len(set(successes))
    for digest in set(scored):
        twins = [trial for trial in found if trial.digest == digest]
        assert len({trial.value for trial in twins}) == 1
        assert sorted(trial.documents for trial in twins)[:-1] == [0] * (len(twins) - 1)


@pytest.mark.parametrize("limit", [0, 3, 6])
def test_duplicates_survive_an_interruption(folder: Make, limit: int) -> None:
    whole = start(folder("whole"), "random", Workers(), trials=24, kind="coarse")
    place = folder("pieces")
    with pytest.raises(KeyboardInterrupt):
        start(place, "random", Workers(shuffle=limit, limit=limit), trials=24, kind="coarse")
    again = start(place, "random", Workers(shuffle=limit), trials=24, kind="coarse")

    def told(trials: Sequence[Trial]) -> list[object]:
        return [(trial.id, trial.point, trial.digest, trial.value, trial.standard_error) for trial in trials]

    assert told(again) == told(whole)
    assert sum(trial.documents for trial in again) == sum(trial.documents for trial in whole)


def test_a_driver_that_lost_its_lease_writes_nothing_more(folder: Make) -> None:
    place, calls = folder("run"), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise RunError("another took over")

    with pytest.raises(RunError, match="took over"):
        start(place, "cma", Workers(), check=check)
    assert len(Ledger(f"sqlite:///{place / 'study.db'}", "run").trials()) == 6


def test_the_watcher_hears_of_trials_and_replays(folder: Make) -> None:
    place = folder("run")
    first, second = Silent(), Silent()
    with pytest.raises(KeyboardInterrupt):
        start(place, "cma", Workers(limit=7), watcher=first)
    start(place, "cma", Workers(), watcher=second)
    assert first.replays == [(0, 0)]
    assert first.seen == list(range(7))
    assert second.replays == [(7, 0)]
    assert second.seen == list(range(7, 20))


def test_recorded_points_of_another_machine_are_kept_and_said(folder: Make) -> None:
    """The ledger of another seed stands for one of other arithmetic."""
    place = folder("run")
    other = start(place, "cma", Workers(), trials=9, seed=2)
    watcher = Silent()
    found = start(place, "cma", Workers(), trials=14, seed=1, watcher=watcher)
    assert found[:9] == other
    assert watcher.replays == [(9, 0), (9, 4)]
    assert timeless(start(place, "cma", Workers(), trials=14, seed=1)) == timeless(found)


def test_weights_enter_the_standard_error(folder: Make) -> None:
    (trial,) = start(folder("run"), "random", Workers(), trials=1)
    spread = sum((i / 10 - 0.2) ** 2 for i in range(DOCUMENTS)) / (DOCUMENTS - 1) / DOCUMENTS
    assert trial.standard_error == pytest.approx((spread * (0.25**2 + 0.75**2)) ** 0.5)
    assert trial.documents == 2 * DOCUMENTS
    assert set(trial.tasks) == set(WEIGHTS)
