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
        found = {name: self._read(job) for name, job in jobs.items()}
        names = {(job.key, job.documents): name for name, job in jobs.items()}
        missing = [job for name, job in jobs.items() if found[name] is None]
        for name in (name for name, score in found.items() if score):
            done(name)
        for job, evaluation in executor.run(missing):
            name = names[job.key, job.documents]
            if isinstance(evaluation.outcome, Failure):
                found[name] = None
            else:
                found[name] = evaluation.outcome
                write_json(self._path(job), asdict(evaluation.outcome))
            done(name)
        return {name: score for name, score in found.items() if score is not None}

    def _path(self, job: Job) -> Path:
        key = f"{self._identity} {job.documents} {job.key}"
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _read(self, job: Job) -> Score | None:
        try:
            data = json.loads(self._path(job).read_text(encoding="utf-8"))
            values = {task: {int(id_): value for id_, value in each.items()} for task, each in data["values"].items()}
            return Score(**{**data, "values": values})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged: scored again
