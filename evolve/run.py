"""`evolve run`: from search.yaml to the best recipe, the merged checkpoint and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from engine.recipe import Recipe
from evolve.atomic import replacing, write_json, write_text
from evolve.conclusion.ending import decide
from evolve.config.budget import WORKING, Budget
from evolve.config.given import addressed
from evolve.config.search_yaml import SearchConfig, load_config
from evolve.environment import describe
from evolve.preparation.course import Searched, draws_of, searched
from evolve.preparation.guard import guard, resolved, sole_driver
from evolve.preparation.preflight import Findings, check_weights, preflight
from evolve.report.facts import Facts
from evolve.report.figures import Figures
from evolve.report.markdown import headline, report_text, trials_csv, where
from evolve.search.baselines import opening_merge
from evolve.search.study import Study
from evolve.storage.items import Items
from evolve.storage.lease import Lease
from evolve.storage.ledger import SEARCH_ENDED, Ledger
from evolve.trial import Trial
from evolve.watching.listeners import placing, result_fields, watched
from evolve.watching.progress import WARNING, ProgressLog
from evolve.watching.tracking import RESULT, trackings
from evolve.workers.executor import Executor
from evolve.workers.remembering import Keys, Remembering
from evolve.workers.start import LazyExecutor
from search_spaces.assemble import labels
from tasks.objective import weighted_mean

LARGER = "; a larger budget, such as search.trials, goes on with it"


def run(path: Path, threads: int | None = None, address: str | None = None) -> None:
    """Search, or go on where an earlier start of the same run stopped, with `threads` a worker on this machine (None:
    to be chosen) and workers at `address` (None: at run.address). Raises what a user can put right."""
    config = addressed(load_config(path), address)
    with ProgressLog() as log:
        log.say(f"{config.name}: checking models, tasks and space")
        findings = preflight(config, log.say, threads)
        config = resolved(config, findings.setting.population)
        with sole_driver(config, log.say) as (ledger, lease), watched(config, findings, ledger, log):
            drive(config, findings, ledger, lease, log)


def drive(config: SearchConfig, findings: Findings, ledger: Ledger, lease: Lease, log: ProgressLog) -> None:
    setting = findings.setting
    identity = {f"models.content ({name})": each.fingerprint() for name, each in setting.checkpoints.items()}
    if ledger.attribute("configuration") is None:  # before it is recorded: a start that is killed here checks again
        check_weights(setting)
    guard(ledger, config, {**identity, "score.content": setting.prepared.digest})
    write_inputs(config, findings)
    ledger.set_attribute("objective", asdict(setting.objective))
    before = ledger.trials()
    earlier = (ledger.events(kind) for kind in ("start", WORKING, SEARCH_ENDED))
    budget = Budget.of(config.search, before, *earlier)
    count = None if findings.workers is None else findings.workers.count
    ledger.add_event("start", trials=len(before), workers=count)
    ended = ledger.attribute("verdict") is not None
    workers = LazyExecutor(config, findings, log.say, placing(ledger, log), beginning(budget, ledger, lease))
    executor = Remembering(workers, Items(config.folder / "items"), Keys(setting))
    try:
        log.stage("search", config.search.trials)
        study = Study(
            setting.space,
            executor,
            ledger,
            budget,
            setting.objective,
            draws_of(setting),
            watcher=log,
            check=lease.check,
            known=executor.known,
            before=before,
        )
        for tracking in trackings(config, log.say):
            log.listen(tracking)
        log.show_trials(
            Figures(setting.objective).trial,
            lambda trial: weighted_mean(trial.parts, study.objective.weights),
            before,
            weights=lambda: study.objective.weights,
        )
        found = searched(study, setting, log, len(ledger.events("worth")))
        lease.check()
        ledger.add_event(SEARCH_ENDED, trials=len(study.recorded), reason=found.ended)
        verdict = finish(config, findings, ledger, lease, executor, study.recorded, found, log)
    finally:
        executor.close()
    if ended and not workers.started:
        log.say(f"nothing was left to score: the run had ended{'' if found.in_vain else LARGER}")
    told = headline(verdict, Figures(setting.objective))
    log.tell(RESULT, result_fields(told, verdict))
    log.say(f"\n{told}\n{where(config.folder)}")
    if found.nothing:
        log.say(f"{WARNING}{found.ended}")


def beginning(budget: Budget, ledger: Ledger, lease: Lease) -> Callable[[], None]:
    """Who is called when a worker can work: the hours run from the first time on, also for later starts."""

    def begin() -> None:
        if budget.begin():
            lease.check()
            ledger.add_event(WORKING)

    return begin


def finish(
    config: SearchConfig,
    findings: Findings,
    ledger: Ledger,
    lease: Lease,
    executor: Executor,
    trials: list[Trial],
    found: Searched,
    log: ProgressLog,
) -> dict[str, Any]:
    """Everything after the search, until the report is written; returns what it tells."""
    setting = findings.setting
    write_text(config.folder / "trials.csv", trials_csv(setting.space, trials))
    verdict, told, winner = decide(config, setting, ledger, lease, executor, trials, found, log)
    lease.check()
    result = {**verdict.as_dict(), **told}
    ledger.set_attribute("verdict", result)
    write_report(config, findings, ledger, trials, result, winner)
    return result


def write_inputs(config: SearchConfig, findings: Findings) -> None:
    """The resolved configuration, the document sets and the requests that workers map, written at every start."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    # A database URL may hold a password, which is then for the owner's eyes only.
    write_text(config.folder / "search.yaml", text, mode=0o600 if config.run.storage else 0o644)
    prepared = findings.setting.prepared
    documents = prepared.documents
    for which in prepared.unstored():
        with replacing(config.folder / "requests" / f"{which}.arrow") as file:
            prepared.write(which, file)
    for name in ("search", "selection", "report"):
        ids = {task: list(getattr(sets, name)) for task, sets in documents.items()}
        write_text(config.folder / "documents" / f"{name}.json", json.dumps(ids) + "\n")


def write_report(
    config: SearchConfig,
    findings: Findings,
    ledger: Ledger,
    trials: list[Trial],
    verdict: dict[str, Any],
    winner: Recipe,
) -> None:
    setting = findings.setting
    facts = Facts(
        config=config,
        figures=Figures(setting.objective),
        trials=trials,
        verdict=verdict,
        recipe=winner.to_yaml(),
        openings=ledger.events("report opened"),
        documents={
            task: {name: len(getattr(sets, name)) for name in ("search", "selection", "report")}
            for task, sets in setting.prepared.documents.items()
        },
        benchmarks=setting.prepared.benchmarks,
        dtype=setting.score_dtype,
        reserved=[task for task, sets in setting.prepared.documents.items() if sets.fewshot],
        opening=opening_merge(setting.space, winner),
    )
    made = {name: getattr(facts, name) for name in ("documents", "benchmarks", "dtype", "reserved", "opening")}
    ledger.set_attribute("report", made)
    write_text(config.folder / "report.md", report_text(facts))
    write_json(
        config.folder / "environment.json",
        {
            **describe(),
            "seed": config.seed,
            "models": {
                name: setting.checkpoints[model].fingerprint() for model, name in labels(setting.family.models).items()
            },
            "documents": setting.prepared.digest,
            "workers": None if findings.workers is None else findings.workers.count,
            "threads": None if findings.workers is None else findings.workers.threads,
            "seconds": phase_seconds(trials),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


def phase_seconds(trials: list[Trial]) -> dict[str, float]:
    """Seconds that the workers spent by phase, over all trials."""
    sums: dict[str, float] = {}
    for trial in trials:
        for phase, seconds in trial.seconds.items():
            sums[phase] = sums.get(phase, 0.0) + seconds
    return {phase: round(seconds, 3) for phase, seconds in sums.items()}
