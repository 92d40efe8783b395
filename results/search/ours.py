"""The arms that are ours: `evolve run` itself, in this process, with its default settings but for the budget."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, ClassVar

import yaml
from arena import EACH, Arena, Found, configuration
from order import SPACE
from recipes import Recipe

from evolve import run as evolve_run
from evolve.config.search_yaml import SearchConfig
from evolve.preparation.belonging import storage_url
from evolve.preparation.preflight import Findings
from evolve.preparation.setting import Setting
from evolve.search.candidates import recipe_of
from evolve.search.steps import RATIO
from evolve.storage.ledger import Ledger
from evolve.trial import Evaluation, Failure, Job
from evolve.workers.evaluator import Evaluator
from evolve.workers.executor import InProcess

POOL, DOCUMENTS = 500, {"selection": 60, "report": 1000}  # a skill; the report's are for the claim, and not charged
SEARCHING = 0.78  # of the budget; the rest is for finalists: twelve, or more where nothing can be told apart (C1)


class Counting:
    """In place of `evolve.workers.start.LazyExecutor`: one worker in this process, which counts what it scores."""

    scored: ClassVar[Counter[str]] = Counter()
    faults: ClassVar[float] = 0.0  # share of merges that are broken on purpose, by their digest

    def __init__(self, config: SearchConfig, findings: Findings, say: Callable[[str], None], *_: object) -> None:
        self._config = config
        self._worker: InProcess | None = None

    @property
    def started(self) -> bool:
        return self._worker is not None

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            if self.breaks(job):
                yield job, Evaluation(Failure("not finite", "broken on purpose"))
                continue
            if self._worker is None:
                self._worker = InProcess(Evaluator(self._config, threads=1))
            for _, evaluation in self._worker.run([job]):
                self.count(job, evaluation)
                yield job, evaluation

    def breaks(self, job: Job) -> bool:
        """The same recipes break every time; models alone never do."""
        if job.documents != "search" or job.recipe is None or job.recipe.merge_method == "passthrough":
            return False
        return int(job.recipe.digest[:8], 16) < self.faults * 16**8

    def count(self, job: Job, evaluation: Evaluation) -> None:
        if evaluation.slopes is not None:
            self.scored["gradients"] += evaluation.slopes.documents
            return
        score = evaluation.partial if isinstance(evaluation.outcome, Failure) else evaluation.outcome
        for measures in score.measures.values() if score is not None else ():
            self.scored[job.documents] += max(map(len, measures.values()), default=0)

    def close(self) -> None:
        """Nothing to release."""


def claim(verdict: Mapping[str, Any]) -> bool:
    """Whether the report says of the winner that it is better than the best of the others."""
    gains = {row["name"]: row["gain"] for row in verdict["rows"]}
    return bool(gains[verdict["best"]] and gains[verdict["best"]]["low"] > 0)


def ours(
    each: int = EACH,
    pool: int = POOL,
    share: float = 1.0,
    faults: float = 0.0,
    **search: Any,
) -> Callable[[Arena], Found]:
    """`each`: search documents a skill that a candidate is scored on, drawn for each generation anew from `pool`.

    `share`: of the budget. `search`: settings of search.yaml's section of that name beside the budget.
    """

    def arm(arena: Arena) -> Found:
        budget = {"documents": int(SEARCHING * share * arena.budget), "trials": 100_000, "sample": each}
        budget |= {"simplify": False}  # it spends documents, and gives up to a standard error away
        config = configuration(arena.bench, arena.seed, "bench", {**DOCUMENTS, "search": pool}, arena.folder)
        content = config.model_dump(mode="json", exclude_unset=True)
        content |= {"search": {**budget, **search}, "run": {**content["run"], "workers": 1}}
        if arena.bench.name == "B9":
            content["space"] = SPACE
        file = arena.folder / "search.yaml"
        shutil.rmtree(arena.folder, ignore_errors=True)  # of a run that was broken off
        arena.folder.mkdir(parents=True)
        file.write_text(yaml.safe_dump(content))
        evolve_run.LazyExecutor = Counting  # type: ignore[assignment,misc]
        Counting.scored, Counting.faults = Counter(), faults
        told = StringIO()
        with redirect_stdout(told), redirect_stderr(told):
            evolve_run.run(file)
        (arena.folder / "log.txt").write_text(told.getvalue())
        scored = Counting.scored
        arena.spent += scored["search"] + scored["selection"] + round(RATIO * scored["gradients"])
        return result(config, scored)

    return arm


def result(config: SearchConfig, scored: Mapping[str, int]) -> Found:
    ledger = Ledger(storage_url(config), config.name, must_exist=True)
    verdict, trials = ledger.attribute("verdict"), ledger.trials()
    ledger.close()
    recipe = Recipe.from_yaml((config.folder / "best.yaml").read_text())
    gain = {row["name"]: row["gain"] for row in verdict["rows"]}[verdict["best"]]
    best = next((trial for trial in trials if trial.origin == f"start: {verdict['best']}"), None)
    opponent = (
        None if best is None else recipe_of(best, Setting(config).space).model_dump(mode="json", exclude_none=True)
    )
    notes = {"scored": dict(scored), "candidates": len(trials), "best": verdict["best"], "gain": gain}
    notes |= {"best recipe": opponent}
    return Found(recipe, claim(verdict), notes)
