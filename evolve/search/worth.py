"""Whether a search is worth going on with: when it finds nothing that beats what it began with, it says so and ends.

Now and then the best that was searched meets the best model or plain merge on selection documents, which did not choose
either of them. Chunk after chunk is scored until one of two things is clear: a gain, after which nobody asks again, or
that there is none. That a gain worth having is unlikely ends the search when it is said twice in a row; where both are
still the same the second time, the search has found nothing in between, and nothing is scored again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolve.search.candidates import candidate_of
from evolve.search.draws import Draws, Only
from evolve.search.opening import START
from evolve.search.study import Study
from evolve.statistics.paired import standard_error
from evolve.trial import Failure, Job, Trial
from tasks.objective import Objective, Utilities, differences, mean_over_tasks, weighted_mean

FIRST = 30  # whole candidates' documents before the first question
EVERY = 4  # and between two
GAIN = 0.01  # of a metric between 0 and 1: what is worth searching for
SURE = 2.0  # standard errors above 0, after which there is a gain
UNLIKELY = 0.5  # standard errors that the estimate lies below GAIN, at least, where there is none
TWICE = 2


@dataclass(frozen=True)
class Answer:
    """The searched one's lead, its standard error, and the documents that it took."""

    lead: float
    error: float
    documents: int


class Worth:
    """Asked after every generation. `selection`: the selection documents, in chunks."""

    def __init__(self, study: Study, selection: Draws) -> None:
        self._study, self._chunks = study, selection.chunks(0)
        self._next = FIRST * study.draws.size
        self._in_vain = 0
        self._settled = False
        self._last: tuple[int, int] | None = None

    def over(self) -> bool:
        """Whether the search should end here."""
        study = self._study
        if self._settled or study.documents < self._next:
            return False
        pair = champions(study.trials, study.objective)
        if pair is None or not study.affords(self._most):
            return False
        self._next = study.documents + EVERY * study.draws.size
        both = pair[0].id, pair[1].id
        if both == self._last:
            self._in_vain += self._in_vain > 0
            return self._in_vain >= TWICE
        self._last = both
        made = study.decide("worth", lambda: self._asked(*pair), documents=self._most)
        self._settled = made["lead"] > SURE * made["error"]
        self._in_vain = self._in_vain + 1 if made["lead"] + UNLIKELY * made["error"] < GAIN else 0
        return self._in_vain >= TWICE

    @property
    def _most(self) -> int:
        return 2 * sum(map(len, self._chunks[-1].values()))

    def _asked(self, searched: Trial, plain: Trial) -> dict[str, Any]:
        answer = self._measured(searched, plain)
        return {
            "searched": searched.id,
            "plain": plain.id,
            "lead": answer.lead,
            "error": answer.error,
            "documents": answer.documents,
        }

    def _measured(self, searched: Trial, plain: Trial) -> Answer:
        answer = Answer(0.0, float("inf"), 0)
        for chunk in self._chunks:
            ours, theirs = self._scored([searched, plain], chunk)
            if ours is None or theirs is None:
                break
            answer = compared(ours, theirs, self._study.objective.weights)
            if answer.lead > SURE * answer.error or answer.lead < -answer.error:
                break
        return answer

    def _scored(self, trials: Sequence[Trial], only: Only) -> list[Utilities | None]:
        """By trial; None where it failed."""
        study = self._study
        recipes = [candidate_of(trial, study.space).recipe for trial in trials]
        jobs = [Job(recipe.digest, "selection", recipe=recipe, only=only) for recipe in recipes]
        outcomes = {job.key: evaluation.outcome for job, evaluation in study.executor.run(jobs)}
        scores = [outcomes[recipe.digest] for recipe in recipes]
        return [None if isinstance(each, Failure) else study.objective.utilities(each.measures) for each in scores]


def champions(trials: Sequence[Trial], objective: Objective) -> tuple[Trial, Trial] | None:
    """The best that was searched, and the best of what the search began with; None where either is missing."""
    whole = [trial for trial in trials if trial.whole and trial.failure is None]
    ranked = sorted(whole, key=lambda trial: (-weighted_mean(trial.parts, objective.weights), trial.id))
    searched = next((trial for trial in ranked if not trial.origin.startswith(START)), None)
    plain = next((trial for trial in ranked if trial.origin.startswith(START)), None)
    return (searched, plain) if searched is not None and plain is not None else None


def compared(ours: Utilities, theirs: Utilities, weights: Mapping[str, float]) -> Answer:
    gaps = differences(ours, theirs)
    documents = 2 * sum(map(len, gaps.values()))
    return Answer(mean_over_tasks(gaps, weights), standard_error(gaps, weights), documents)
