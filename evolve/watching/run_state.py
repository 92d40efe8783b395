"""Where a run stands, gathered from its ledger: for `evolve status`, in words or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from evolve.config.search_yaml import SearchConfig
from evolve.report.figures import Figures, recorded_figures
from evolve.report.markdown import headline, where
from evolve.storage.ledger import SEARCH_ENDED, START, Ledger
from evolve.trial import Trial
from evolve.watching.pace import Pace, pace_of
from tasks.objective import weighted_mean

PLACEMENT = (
    "placement"  # the ledger's attribute: [{"node": ..., "workers": n, "threads": t, "gpus": g}, ...], "": nowhere
)
KEYS = {"node", "workers", "threads"}  # that each row of it has
SHOWN = 8  # machines that are told one by one
QUIET = 60.0  # seconds without a candidate, and
SLOW = 3.0  # so many times the usual gap between two, after which that is said


class Driver(Protocol):
    """Who drives a run, as its lease tells."""

    @property
    def host(self) -> str: ...

    @property
    def pid(self) -> int: ...


@dataclass(frozen=True)
class State:
    """`ended`: why the search of the last start ended, "" where it has not; `silence`: seconds for which the driver's
    heartbeat was seen to stand still."""

    config: SearchConfig
    figures: Figures
    trials: Sequence[Trial]
    best: Trial | None
    failures: Mapping[str, int]
    holder: Driver | None
    silence: float
    placement: Sequence[Mapping[str, Any]]
    workers: int | None
    ended: str
    verdict: dict[str, Any] | None
    pace: Pace

    @property
    def searching(self) -> bool:
        return self.holder is not None and not self.ended

    @property
    def over(self) -> bool:
        """Whether nothing more will come: all is written and nobody is at work."""
        return self.holder is None and self.verdict is not None


def state_of(config: SearchConfig, ledger: Ledger, holder: Driver | None, now: float, silence: float = 0.0) -> State:
    trials, events, figures = ledger.trials(), ledger.events(), recorded_figures(ledger, config)
    placement = [row for row in ledger.attribute(PLACEMENT) or [] if set(row) >= KEYS]
    starts = [event for event in events if event["kind"] == START]
    placed = sum(int(each["workers"]) for each in placement if each["node"])
    counted = placed or (starts[-1].get("workers") if starts else None)
    return State(
        config=config,
        figures=figures,
        trials=trials,
        best=best_of(trials, weights_of(events, config, figures)),
        failures=Counter(trial.failure.kind for trial in trials if trial.failure),
        holder=holder,
        silence=silence,
        placement=placement,
        workers=counted,
        ended=why_ended(events),
        verdict=ledger.attribute("verdict"),
        pace=pace_of(trials, events, config.search, counted, now),
    )


def why_ended(events: Sequence[Mapping[str, Any]]) -> str:
    """Why the search of the last start ended; "" where it has not."""
    last = [event for event in events if event["kind"] in (START, SEARCH_ENDED)][-1:]
    return str(last[0]["reason"]) if last and last[0]["kind"] == SEARCH_ENDED else ""


def weights_of(events: Sequence[Mapping[str, Any]], config: SearchConfig, figures: Figures) -> dict[str, float] | None:
    """The tasks' weights in the search's objective; None where they are normalised by what is not known yet."""
    gaps = [event["gaps"] for event in events if event["kind"] == "normalised"]
    objective = figures.objective.normalised(gaps[0]) if gaps else figures.objective
    return objective.weights if gaps or not config.score.normalize else None


def best_of(trials: Sequence[Trial], weights: Mapping[str, float] | None) -> Trial | None:
    """The best of those that were scored whole, all by the same weights: trials hold values by those of their time."""

    def value(trial: Trial) -> float:
        if not trial.parts or weights is None:
            return trial.value or 0.0
        return weighted_mean(trial.parts, weights)

    scored = [trial for trial in trials if trial.value is not None and trial.whole]
    return max(scored, key=value, default=None) if weights is not None else None


def lines(state: State) -> list[str]:
    """What `evolve status` prints."""
    told = [f"{state.config.name}: {len(state.trials)} of {state.config.search.trials} candidates", driver_line(state)]
    told += placement_lines(state) if state.holder else []
    told += best_lines(state)
    told += [f"failed: {count} ({kind})" for kind, count in sorted(state.failures.items())]
    told += pace_lines(state) if state.searching else []
    if state.ended:
        told.append(f"the search has ended: {state.ended}")
    if state.ended and (state.holder or not state.verdict):
        todo = "finalists, checkpoint and report are to come"
        told.append(todo + ("" if state.holder else "; `evolve run` goes on with them"))
    elif state.verdict:
        told += [headline(state.verdict, state.figures), where(state.config.folder)]
    return told


def driver_line(state: State) -> str:
    silent = f", silent for {state.silence:.0f} s" if state.silence else ""
    return f"driver: {state.holder or 'none at work'}{silent}"


def placement_lines(state: State) -> list[str]:
    """A line a machine, of the first few."""
    local = state.config.run.address == "local"
    told = [placed_line(each, local) for each in state.placement[:SHOWN]]
    rest = state.placement[SHOWN:]
    if rest:
        told.append(f"workers: {sum(int(each['workers']) for each in rest)} on {len(rest)} machines more")
    return told


def placed_line(row: Mapping[str, Any], local: bool) -> str:
    """`local`: the workers are this machine's, where each has its room."""
    threads, node = int(row["threads"]), str(row["node"])
    if not node:
        return f"workers: {row['workers']} starting{'' if local else ', or waiting for room'}"
    gpus = f", {row['gpus']:g} GPU" if row.get("gpus") else ""
    where = f"in {node}" if node == "this process" else f"on {node}"
    return f"workers: {row['workers']} {where}, with {threads} thread{'s' * (threads != 1)}{gpus} each"


def best_lines(state: State) -> list[str]:
    best, figures = state.best, state.figures
    if best is None:
        return []
    told = [
        f"best on the search documents: {figures.trial(best)} "
        f"(candidate {best.id}; overstated, being the best of many"
        f"{'; generations met other documents, so values compare only roughly' * bool(state.config.search.sample)})"
    ]
    if best.loglikelihoods:
        answers = ", ".join(f"{task} {value:.4f}" for task, value in best.loglikelihoods.items())
        told.append(f"its right answers' log-likelihood, {figures.nats}: {answers}")
    return told


def pace_lines(state: State) -> list[str]:
    pace, told = state.pace, []
    if pace.candidates:
        told.append(f"rate: {pace.candidates * 3600:.0f} candidates an hour (over the last {pace.window})")
    if pace.first is not None:
        key, seconds = pace.first
        told.append(f"left: {timedelta(seconds=round(seconds))}, until {key} ends it")
    if pace.utilisation is not None:
        told.append(
            f"utilisation: {100 * pace.utilisation:.0f} % of the time of {state.workers} "
            f"worker{'s' * (state.workers != 1)} since this start "
            "(without gradients, and without what is under way)"
        )
    usual = 1 / pace.candidates if pace.candidates else 0.0
    if pace.silent is not None and pace.silent > max(QUIET, SLOW * usual):
        told.append(f"last candidate: {timedelta(seconds=round(pace.silent))} ago")
    return told


def as_data(state: State) -> dict[str, Any]:
    """What `evolve status --json` prints; seconds, and shares of 1."""
    best, pace, holder = state.best, state.pace, state.holder
    return {
        "name": state.config.name,
        "folder": str(state.config.folder),
        "trials": len(state.trials),
        "budget": {
            "trials": state.config.search.trials,
            "hours": state.config.search.hours,
            "documents": state.config.search.documents,
        },
        "driver": None
        if holder is None
        else {"process": holder.pid, "host": holder.host.split()[0], "silent": state.silence},
        "workers": state.workers if holder else None,
        "placement": [dict(each) for each in state.placement] if holder else [],
        "best": None
        if best is None
        else {
            "candidate": best.id,
            "value": best.value,
            "standard_error": best.standard_error,
            "tasks": best.tasks,
            "loglikelihoods": best.loglikelihoods,
        },
        "failures": dict(state.failures),
        "candidates_an_hour": pace.candidates * 3600 if state.searching else None,
        "documents_an_hour": pace.documents * 3600 if state.searching else None,
        "utilisation": pace.utilisation if state.searching else None,
        "left": dict(pace.left) if state.searching else {},
        "since_last_candidate": pace.silent if state.searching else None,
        "ended": state.ended or None,
        "finished": state.over and bool(state.ended),
        "headline": headline(state.verdict, state.figures) if state.verdict else None,
    }
