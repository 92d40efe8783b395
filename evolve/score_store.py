"""Per-document scores of finalists and baselines, kept in files so that an interrupted ending goes on.

A cache: every file is named by all that its scores depend on, and a lost one is scored again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from evolve.atomic import write_json
from evolve.executor import Executor
from evolve.trial import Failure, Job
from tasks.score import Score


class ScoreStore:
    """`identity` covers models, documents, prompts and precision; a job's key covers the recipe."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder, self._identity = folder, identity

    def scores(self, jobs: Mapping[str, Job], executor: Executor, done: Callable[[str], None]) -> dict[str, Score]:
        """The scores by name, those that are not kept yet from `executor`. One that fails is left out."""
        names = {self._path(job): name for name, job in jobs.items()}
        kept = {path: self._read(path) for path in names}
        for path, score in kept.items():
            if score is not None:
                done(names[path])
        missing = {self._path(job): job for job in jobs.values() if kept[self._path(job)] is None}
        for job, evaluation in executor.run(list(missing.values())):
            path, outcome = self._path(job), evaluation.outcome
            if isinstance(outcome, Failure):
                done(f"{names[path]} failed ({outcome.kind}): {outcome.message}")
            else:
                write_json(path, asdict(outcome))
                kept[path] = outcome
                done(names[path])
        scores = {name: kept[self._path(job)] for name, job in jobs.items()}
        return {name: score for name, score in scores.items() if score is not None}

    def _path(self, job: Job) -> Path:
        key = f"{self._identity} {job.documents} {job.key}"
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _read(self, path: Path) -> Score | None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            values = {task: {int(id_): value for id_, value in each.items()} for task, each in data["values"].items()}
            return Score(**{**data, "values": values})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged: scored again
