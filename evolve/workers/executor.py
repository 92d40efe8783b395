"""Who evaluates jobs: this process, or workers of a Ray cluster. The results do not depend on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from evolve.trial import Evaluation, Failure, Job
from evolve.workers.evaluator import Evaluator
from evolve.workers.interruption import INTERRUPTION

ATTEMPTS = 2  # a job whose worker raises or dies is tried once more, then it is a recorded failure


class Executor(Protocol):
    """`run` yields each job with what came of it, as they finish, in any order.

    `jobs` is pulled when a worker is free for one more and what was yielded before has been taken, so a generator may
    decide then what comes next; where it ends, there is nothing more to do. The worker that has just finished gets the
    job that is pulled next, and a job that is tried once more goes before new ones.
    """

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]: ...

    def close(self) -> None: ...


class InProcess:
    """One worker, in this process: no Ray."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            with INTERRUPTION.finishing():
                yield job, attempt(self._evaluator, job)

    def close(self) -> None:
        """Nothing to release."""


def attempt(evaluator: Evaluator, job: Job, *, smaller: bool = False) -> Evaluation:
    """The evaluation, with a second try where the first one raised. `smaller`: in batches of half the size."""
    for _ in range(ATTEMPTS):
        try:
            return evaluator.evaluate(job, smaller=smaller)
        except Exception as error:
            failure = Failure("error", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    return Evaluation(failure)
