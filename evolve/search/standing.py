"""Where trials stand among all that were scored so far, as optimizers are told it.

Values are finite: those that miss a floor lie below all that keep theirs, the further the more is missed, and failures
below everything seen so far, on each task as well. What has to be known of the trials so far are a few extremes, so
that a search of a hundred thousand trials tells the last as fast as the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.search.opening import BASE
from evolve.statistics.floors import violation
from evolve.trial import Observation, Trial
from tasks.objective import Objective, weighted_mean

Floors = Mapping[str, float]  # task -> how far its metric may fall below the base's
NO_FLOORS: Floors = {}


class Standing:
    """Of trials under one objective; `meet` them in the order of the ledger."""

    def __init__(self, objective: Objective, floors: Floors = NO_FLOORS) -> None:
        self._objective, self._floors = objective, floors
        self._base: Trial | None = None
        self._lowest, self._highest = float("inf"), float("-inf")
        self._missed = 0.0  # most of the floors
        self._worst = {goal.task: float("inf") for goal in objective.goals}

    def meet(self, trials: Sequence[Trial]) -> None:
        """Those that stand beside the next."""
        for trial in trials:
            if trial.failure is not None:
                continue
            if trial.origin == BASE and self._base is None:
                self._base = trial
            value = self._value(trial)
            self._lowest, self._highest = min(self._lowest, value), max(self._highest, value)
            for task in self._worst:
                self._worst[task] = min(self._worst[task], trial.parts[task])
        if self._floors and self._base is not None:
            self._missed = max([self._missed, *(self._miss(each) for each in trials if each.failure is None)])

    def told(self, trials: Sequence[Trial]) -> list[Observation]:
        """What an optimizer learns of these trials, once they are met."""
        return [
            Observation(
                trial.id,
                trial.point,
                value,
                trial.standard_error,
                trial.documents,
                values=tuple(trial.parts.get(task, low - 1e-3 * (1 + abs(low))) for task, low in self._lows.items()),
                violation=missed,
            )
            for trial, value, missed in self.ranked(trials)
        ]

    def ranked(self, trials: Sequence[Trial]) -> list[tuple[Trial, float, float]]:
        """Each trial with its value as optimizers are told it, and by how much it misses the floors."""
        lowest, highest = (each if abs(each) < float("inf") else 0.0 for each in (self._lowest, self._highest))
        below = lowest - 0.1 * (highest - lowest) - 1e-3
        result = []
        for trial in trials:
            miss = self._missed if trial.failure is not None else self._miss(trial)
            value = below - miss if miss or trial.failure is not None else self._value(trial)
            result.append((trial, value, miss))
        return result

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The best of those trials that were scored whole; None where there is none."""
        whole = [trial for trial in trials if trial.whole and trial.failure is None]
        values = {trial.id: value for trial, value, _ in self.ranked(whole)}
        return max(whole, key=lambda trial: (values[trial.id], -trial.id), default=None)

    @property
    def _lows(self) -> dict[str, float]:
        return {task: 0.0 if worst == float("inf") else worst for task, worst in self._worst.items()}

    def _value(self, trial: Trial) -> float:
        return weighted_mean(trial.parts, self._objective.weights)

    def _miss(self, trial: Trial) -> float:
        if not self._floors or self._base is None:
            return 0.0
        ours, standard = (self._objective.oriented(each.tasks) for each in (trial, self._base))
        return violation(ours, standard, self._floors)
