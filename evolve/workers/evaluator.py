"""What a worker does: merge a recipe into the resident model, or load a checkpoint, and score it."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from engine.errors import EngineError, NonFiniteError
from engine.plan import Plan, plan
from evolve.config.search_yaml import SearchConfig
from evolve.environment import usable_cores, usable_memory
from evolve.preparation.setting import DTYPES, Setting
from evolve.trial import Evaluation, Failure, Job, Outcome
from evolve.workers.resident import Resident
from evolve.workers.slopes import NOT_RESIDENT, no_slopes, slopes_of
from tasks.errors import NotFinite, TaskError
from tasks.memory import is_out_of_memory
from tasks.score import Score, Scorer
from tasks.sharing import bears_sharing
from tasks.slope import HELD, Slope
from tasks.spec import SMALLEST


class Evaluator:
    """Everything is prepared once: models mapped, module built, requests tokenised."""

    def __init__(self, config: SearchConfig, *, device: str = "cpu", threads: int | None = None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._setting = Setting(config)
        self._device = device
        self._share: bool | None = None  # whether the architecture bears shared beginnings; found out when needed
        self._resident = Resident(
            self._setting.base,
            dtype=DTYPES[self._setting.score_dtype],
            device=device,
            trust_remote_code=config.run.trust_remote_code,
            room=_room(threads),
        )
        resident = self._resident.module
        self._there: str | None = None  # digest of the recipe whose weights the resident module is known to have
        self._batch_tokens = config.score.batch_tokens
        # Of modules that stay, each with its own.
        self._scorers = [] if resident is None else [(resident, self._scorer_with(resident))]

    def evaluate(self, job: Job, *, smaller: bool = False) -> Evaluation:
        """The outcome of a job. What a candidate does wrong is a Failure; other errors are raised.

        `smaller`: in batches of half the size, from now on: there was no memory for whole ones.
        """
        if smaller:
            self._halve()
        scored = False
        try:
            evaluation = self._evaluated(job)
            scored = not isinstance(evaluation.outcome, Failure)
            return evaluation
        finally:
            if not scored:
                self._there = None

    def _halve(self) -> None:
        whole = self._setting.config.score.batch_tokens
        if self._batch_tokens == whole:
            self._batch_tokens, self._scorers = max(SMALLEST, whole // 2), []

    def _evaluated(self, job: Job) -> Evaluation:
        start = time.perf_counter()
        outcome: Outcome
        try:
            if job.slopes:
                return self._slopes_of(job)
            scorer, merged = self._scorer_of(job), time.perf_counter()
            outcome = scorer.score(job.documents, job.only)
            seconds = {"merge": merged - start, **outcome.seconds}
        except (NonFiniteError, NotFinite) as error:
            return Evaluation(Failure("not finite", str(error)), {"merge": time.perf_counter() - start})
        except EngineError as error:
            return Evaluation(Failure("merge", str(error)), {"merge": time.perf_counter() - start})
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            gc.collect()
            partial = None if job.slopes else self._task_by_task(job)
            return Evaluation(Failure("memory", str(error)), {}, partial)
        return Evaluation(outcome, seconds | {"total": time.perf_counter() - start})

    def _slopes_of(self, job: Job) -> Evaluation:
        """The slopes of a recipe's weights; a Failure where it has none, or where the model cannot be had in memory."""
        start = time.perf_counter()
        made = plan(job.recipe, self._setting.checkpoints) if job.recipe is not None else None
        lacking = no_slopes(made)
        if made is None or self._resident.ready(made) is None:
            lacking = NOT_RESIDENT
        if made is None or lacking:
            return Evaluation(Failure("slopes", lacking or NOT_RESIDENT))
        module = self._merged(made, job)
        merged = time.perf_counter()
        try:
            found = slopes_of(made, module, self._resident, self._slope_with(module, job), job)
        except TaskError as error:
            if isinstance(error, NotFinite):
                raise
            return Evaluation(Failure("slopes", str(error)))
        end = time.perf_counter()
        seconds = {"merge": merged - start, "forward": end - merged, "total": end - start}
        return Evaluation(Score({}, {}), seconds, slopes=found)

    def _slope_with(self, module: torch.nn.Module, job: Job) -> Slope:
        setting = self._setting
        objective = setting.objective if job.weights is None else setting.objective.weighed(job.weights)
        tokens = max(SMALLEST, self._batch_tokens // HELD)
        if self._share is None:  # a property of the architecture
            self._share = bears_sharing(module)
        return Slope(
            setting.prepared,
            module,
            self._resident.tokenizer,
            objective,
            share=self._share,
            batch_tokens=tokens,
        )

    def _task_by_task(self, job: Job) -> Score | None:
        """The scores of those tasks for which there is memory, where there is not enough for all of them."""
        measures: dict[str, Mapping[str, Mapping[int, float]]] = {}
        for task, documents in self._setting.prepared.requests(job.documents).items():
            only = {task: tuple(each.id for each in documents) if job.only is None else job.only.get(task, ())}
            try:
                if only[task]:
                    measures[task] = self._scorer_of(job).score(job.documents, only).measures[task]
            except (EngineError, NotFinite, MemoryError, RuntimeError) as error:
                if not (isinstance(error, (EngineError, NotFinite)) or is_out_of_memory(error)):
                    raise
                gc.collect()
        return Score(measures, {}) if measures else None

    def _scorer_of(self, job: Job) -> Scorer:
        """The scorer of a module with the job's weights in it: one that stays, or one loaded for this job alone."""
        made = plan(job.recipe, self._setting.checkpoints) if job.recipe is not None else None
        if made is None or not self._resident.bears(made):
            self._scorers, self._there = [], None
            self._resident.drop()  # there may be no room for one module more; the next recipe builds them again
        module = self._resident.load_folder(Path(str(job.folder))) if made is None else self._merged(made, job)
        scorer = next((scorer for held, scorer in self._scorers if held is module), None)
        if scorer is None:
            scorer = self._scorer_with(module)
            self._scorers += [(module, scorer)] if self._resident.holds(module) else []
        return scorer

    def _merged(self, made: Plan, job: Job) -> torch.nn.Module:
        """The module with the job's weights in it, which are not merged again where they are what stands there."""
        digest = None if job.recipe is None else job.recipe.digest
        module = self._resident.ready(made)
        if module is not None and digest is not None and digest == self._there:
            return module
        self._there = None
        module = self._resident.merged(made)
        self._there = digest if module is self._resident.module else None
        return module

    def _scorer_with(self, module: torch.nn.Module) -> Scorer:
        return Scorer(
            self._setting.prepared,
            module,
            self._resident.tokenizer,
            batch_tokens=self._batch_tokens,
            device=self._device,
        )


def _room(threads: int | None) -> int:
    """Return the bytes that a worker of so many threads may hold adapted weights in: its part of a quarter of what is
    free, as there may be a worker for all the other cores."""
    workers = max(1, usable_cores() // threads) if threads else 1
    return usable_memory() // (4 * workers)
