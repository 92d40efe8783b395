"""Which job a free worker gets, and what becomes of a job whose worker was lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from evolve.trial import Failure, Job
from evolve.workers.executor import ATTEMPTS

MACHINES = 5  # that may be lost under a job before it is given up: it may be what ends them

Loss = Literal["died", "memory", "time", "machine"]


@dataclass(frozen=True)
class Try:
    """A job and how the workers were lost that had it before."""

    job: Job
    losses: tuple[Loss, ...] = ()

    @property
    def smaller(self) -> bool:
        """Whether it is to be evaluated in batches of half the size."""
        return "memory" in self.losses


class Dispatch:
    """Jobs are pulled out of `jobs` one by one; those to be tried once more go before. `minutes`: of the time limit,
    for the messages."""

    def __init__(self, jobs: Iterable[Job], minutes: float | None) -> None:
        self._source: Iterator[Job] | None = iter(jobs)
        self._again: list[Try] = []
        self._minutes = minutes

    @property
    def more(self) -> bool:
        """Whether there may be something to do."""
        return self._source is not None or bool(self._again)

    def next(self) -> Try | None:
        """The next try; None where there is none, now and later."""
        if self._again:
            return self._again.pop(0)
        job = next(self._source, None) if self._source is not None else None
        if job is None:
            self._source = None
            return None
        return Try(job)

    def stop(self) -> None:
        """Nothing is begun any more."""
        self._source, self._again = None, []

    def lost(self, tried: Try, how: Loss) -> Failure | None:
        """What is to be recorded, or None where the job is tried once more.

        A machine that was lost is not the job's doing, unless it happens again and again.
        """
        losses = (*tried.losses, how)
        machines = losses.count("machine")
        if len(losses) - machines < ATTEMPTS and machines < MACHINES:
            self._again.append(Try(tried.job, losses))
            return None
        return failure(how, self._minutes)


def failure(how: Loss, minutes: float | None) -> Failure:
    """How a job is recorded that was lost once too often, by the last time."""
    if how == "time":
        return Failure("time", f"took longer than run.candidate_minutes ({minutes:g}), twice")
    if how == "memory":
        what = "its process was killed for want of memory, with batches of half the size too"
        return Failure("memory", f"{what}; lower score.batch_tokens, or take fewer workers")
    if how == "machine":
        return Failure("machine lost", f"the machine that evaluated it was lost {MACHINES} times")
    return Failure("worker died", "the process that evaluated it ended twice")
