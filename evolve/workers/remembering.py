"""An executor that asks for nothing twice: jobs are looked up in the item database, and only what is missing is sent.

What comes back is added to the database before the caller sees it, so that it is there before the ledger tells of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.merge import MERGE_VERSION
from evolve.preparation.setting import Setting
from evolve.storage.items import Item, Items, short
from evolve.trial import Documents, Evaluation, Failure, Job
from evolve.workers.executor import Executor
from tasks.score import SCORER_VERSION, Score

Digests = Mapping[str, Mapping[int, str]]  # task -> document id -> digest of what is asked


class Remembering:
    """`inner` evaluates what `items` does not hold."""

    def __init__(self, inner: Executor, items: Items, keys: Keys) -> None:
        self._inner, self._items, self._keys = inner, items, keys

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        waiting: dict[tuple[str, Documents], tuple[Job, dict[str, Item]]] = {}
        answered: deque[tuple[Job, Evaluation]] = deque()

        def asked() -> Iterator[Job]:
            for job in jobs:
                if job.slopes:
                    yield job
                    continue
                digests, known = self._look_up(job)
                missing = missing_of(digests, known)
                if missing:
                    waiting[job.key, job.documents] = job, known
                    yield replace(job, only=missing) if known else job
                else:
                    answered.append((job, Evaluation(score_of(digests, known))))

        for part, evaluation in self._inner.run(asked()):
            while answered:
                yield answered.popleft()
            if part.slopes:
                yield part, evaluation
                continue
            job, known = waiting.pop((part.key, part.documents))
            yield job, self._remember(job, known, evaluation)
        yield from answered

    def known(self, job: Job) -> Evaluation | None:
        """What the database answers to all of a job; None where something is missing."""
        digests, known = self._look_up(job)
        return None if missing_of(digests, known) else Evaluation(score_of(digests, known))

    def close(self) -> None:
        self._inner.close()

    def _remember(self, job: Job, known: dict[str, Item], evaluation: Evaluation) -> Evaluation:
        failed = isinstance(evaluation.outcome, Failure)
        fresh = evaluation.partial if isinstance(evaluation.outcome, Failure) else evaluation.outcome
        if fresh is None:
            return evaluation
        digests = self._digests(job)
        added = by_digest(fresh, digests)
        self._items.add(self._keys.candidate(job), added)
        if failed or not known:
            return evaluation
        known = {**known}
        for measures in added.values():
            for measure, values in measures.items():
                for digest, value in values.items():
                    known[short(digest)] = {**known.get(short(digest), {}), measure: value}
        return replace(evaluation, outcome=score_of(digests, known, fresh.seconds))

    def _look_up(self, job: Job) -> tuple[Digests, dict[str, Item]]:
        """What the job asks, and what the database knows of it."""
        digests = self._digests(job)
        asked = {short(digest) for each in digests.values() for digest in each.values()}
        known = self._items.known(self._keys.candidate(job))
        return digests, {document: item for document, item in known.items() if document in asked}

    def _digests(self, job: Job) -> Digests:
        """Of what the job asks for."""
        digests = self._keys.digests(job.documents)
        if job.only is None:
            return digests
        return {task: {each: digests[task][each] for each in ids} for task, ids in job.only.items()}


@dataclass(frozen=True)
class Keys:
    """What the answers of a run's candidates depend on beside the documents."""

    setting: Setting

    def digests(self, which: Documents) -> Digests:
        requests = self.setting.prepared.requests(which)
        return {task: {each.id: each.digest for each in documents} for task, documents in requests.items()}

    def candidate(self, job: Job) -> str:
        """sha256 over the recipe and its models' contents, or the written checkpoint, and how it is scored."""
        checkpoints = self.setting.checkpoints
        used = checkpoints if job.recipe is None else {name: checkpoints[name] for name in job.recipe.references}
        facts: dict[str, Any] = {
            "job": job.key,
            "models": {name: checkpoint.fingerprint() for name, checkpoint in used.items()},
            "tokenizer": self.setting.base.fingerprint(),
            "dtype": self.setting.score_dtype,
            "max_length": self.setting.config.score.max_length,
            "merge": MERGE_VERSION,
            "scorer": SCORER_VERSION,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def missing_of(digests: Digests, known: Mapping[str, Item]) -> dict[str, tuple[int, ...]]:
    """Of each task the ids whose documents are not known."""
    missing = {
        task: tuple(identity for identity, digest in each.items() if short(digest) not in known)
        for task, each in digests.items()
    }
    return {task: ids for task, ids in missing.items() if ids}


def by_digest(score: Score, digests: Digests) -> dict[str, dict[str, dict[str, float]]]:
    return {
        task: {
            measure: {digests[task][identity]: value for identity, value in values.items()}
            for measure, values in measures.items()
        }
        for task, measures in score.measures.items()
    }


def score_of(digests: Digests, known: Mapping[str, Item], seconds: Mapping[str, float] | None = None) -> Score:
    """The set's score out of known items, documents in the set's order."""
    measures: dict[str, dict[str, dict[int, float]]] = {}
    for task, each in digests.items():
        values = measures.setdefault(task, {})
        for identity, digest in each.items():
            for measure, value in known[short(digest)].items():
                values.setdefault(measure, {})[identity] = value
    return Score(measures, dict(seconds or {}))
