"""`evolve status`: where a run stands, from its ledger alone."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path

from evolve.config import SearchConfig
from evolve.figures import Figures, recorded_figures
from evolve.guard import holder_of, load_run, storage_url
from evolve.ledger import SEARCH_ENDED, START, Ledger
from evolve.report import headline, where
from evolve.trial import Trial
from tasks.objective import total_of


def status(folder: Path) -> None:
    """Print the run's progress, rate, failures by kind and who drives it."""
    config = load_run(folder)
    ledger = Ledger(storage_url(config), config.name, must_exist=True)
    trials = ledger.trials()
    holder = holder_of(config)
    print(f"{config.name}: {len(trials)} of {config.search.trials} candidates")
    print(f"driver: {holder or 'none at work'}")
    figures = recorded_figures(ledger, config)
    weights = weights_of(ledger, config, figures)
    ended, verdict = why_ended(ledger), ledger.attribute("verdict")
    for line in facts(trials, config, figures, weights, driven=holder is not None and not ended):
        print(line)
    if ended:
        print(f"the search has ended: {ended}")
    if ended and (holder or not verdict):
        print("finalists, checkpoint and report are to come" + ("" if holder else "; `evolve run` goes on with them"))
    elif verdict:
        print(f"{headline(verdict, figures)}\n{where(folder)}")


def why_ended(ledger: Ledger) -> str:
    """Why the search of the last start ended; "" where it has not."""
    events = [event for event in ledger.events() if event["kind"] in (START, SEARCH_ENDED)]
    return str(events[-1]["reason"]) if events and events[-1]["kind"] == SEARCH_ENDED else ""


def weights_of(ledger: Ledger, config: SearchConfig, figures: Figures) -> dict[str, float] | None:
    """The tasks' weights in the search's objective; None where they are normalised by what is not known yet."""
    gaps = [event["gaps"] for event in ledger.events("normalised")]
    objective = figures.objective.normalised(gaps[0]) if gaps else figures.objective
    return objective.weights if gaps or not config.score.normalize else None


def best_of(trials: list[Trial], weights: dict[str, float] | None) -> Trial | None:
    """The best of those that were scored whole, all by the same weights: trials hold values by those of their time."""

    def value(trial: Trial) -> float:
        if not trial.parts or weights is None:
            return trial.value or 0.0
        return total_of(weights[task] * part for task, part in trial.parts.items()) / total_of(weights.values())

    scored = [trial for trial in trials if trial.value is not None and trial.whole]
    return max(scored, key=value, default=None) if weights is not None else None


def facts(
    trials: list[Trial], config: SearchConfig, figures: Figures, weights: dict[str, float] | None, driven: bool
) -> list[str]:
    lines = []
    best = best_of(trials, weights)
    if best is not None:
        lines.append(
            f"best on the search documents: {figures.trial(best)} "
            f"(candidate {best.id}; overstated, being the best of many"
            f"{'; generations met other documents, so values compare only roughly' * bool(config.search.sample)})"
        )
        if best.loglikelihoods:
            answers = ", ".join(f"{task} {value:.4f}" for task, value in best.loglikelihoods.items())
            lines.append(f"its right answers' log-likelihood, {figures.nats}: {answers}")
    failures = Counter(trial.failure.kind for trial in trials if trial.failure)
    lines += [f"failed: {count} ({kind})" for kind, count in sorted(failures.items())]
    rate = rate_of(trials)
    if rate and driven:
        left = max(0, config.search.trials - len(trials)) / rate
        lines.append(f"rate: {rate * 3600:.0f} candidates an hour, {timedelta(seconds=round(left))} left")
    return lines


def rate_of(trials: list[Trial]) -> float:
    """Candidates a second over the last ten."""
    times = sorted(trial.finished for trial in trials)[-10:]
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
