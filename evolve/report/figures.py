"""How scores are printed: metrics as lm-eval prints them, means in hundredths, and log-likelihoods beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolve.config.search_yaml import SearchConfig
from evolve.storage.ledger import Ledger
from evolve.trial import Trial
from tasks.objective import Goal, Objective

Gain = Mapping[str, float]  # a `Difference` as a dictionary


@dataclass(frozen=True)
class Figures:
    objective: Objective

    @property
    def plain(self) -> bool:
        """Whether there are perplexities among the metrics, which nobody counts in hundredths."""
        return any(goal.aggregation != "mean" for goal in self.objective.goals)

    @property
    def unit(self) -> str:
        return "" if self.plain else " points"

    @property
    def nats(self) -> str:
        return f"nats a {self.objective.unit}"

    def metric(self, value: float) -> str:
        return f"{value:.4f}" if self.plain else f"{100 * value:.1f}"

    def gap(self, value: float) -> str:
        return f"{value:+.4f}" if self.plain else f"{100 * value:+.1f}"

    def interval(self, gain: Gain) -> str:
        return f"{self.gap(gain['mean'])} ({self.gap(gain['low'])} to {self.gap(gain['high'])})"

    def mean(self, metrics: Mapping[str, float]) -> str:
        """The mean over tasks, or every task's metric where a mean would mix those that should rise and fall."""
        mean = self.objective.mean_metric(metrics)
        return ", ".join(map(self.metric, metrics.values())) if mean is None else self.metric(mean)

    def trial(self, trial: Trial) -> str:
        """A scored trial's metric, with its standard error where that is the objective's, and else the objective."""
        if not trial.tasks:
            return f"{self.metric(trial.value or 0.0)} ± {self.metric(trial.standard_error)}"
        if self.objective.is_metric:
            return f"{self.mean(trial.tasks)} ± {self.metric(trial.standard_error)}"
        return f"{self.mean(trial.tasks)}, objective {trial.value:.4f} ± {trial.standard_error:.4f}"


def fine(gain: Gain) -> str:
    """A difference of log-likelihoods or of a mixed objective with its interval."""
    return f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"


def recorded_figures(ledger: Ledger, config: SearchConfig) -> Figures:
    """By the objective that the ledger holds; one from before they were recorded knew accuracies only."""
    data: dict[str, Any] | None = ledger.attribute("objective")
    if data is None:
        goals = tuple(Goal(task.task, task.metric or "", task.weight, True) for task in config.score.tasks)
        return Figures(Objective(goals))
    return Figures(Objective(**{**data, "goals": tuple(Goal(**goal) for goal in data["goals"])}))
