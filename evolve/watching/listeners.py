"""Who listens while a run is driven: its log, from before the first candidate until this start of the run ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from evolve.config.search_yaml import SearchConfig
from evolve.credentials import secrets_of
from evolve.environment import describe
from evolve.preparation.preflight import Findings
from evolve.storage.ledger import Ledger
from evolve.watching.progress import Outcome, ProgressLog
from evolve.watching.run_log import NAME, RunLog
from evolve.watching.run_state import PLACEMENT


@contextmanager
def watched(config: SearchConfig, findings: Findings, ledger: Ledger, log: ProgressLog) -> Iterator[None]:
    """What is told within the block stands in the run's log, and how the block ended. Raises RunError."""
    run_log = RunLog(config.folder / NAME, secrets_of(config.run.storage))
    run_log.hear("start", start_fields(config, findings))
    log.listen(run_log)
    ledger.hear = lambda event: log.tell("decision", {key: each for key, each in event.items() if key != "at"})
    outcome: Outcome = "failed"
    try:
        yield
        outcome = "finished"
        log.tell("end", {})
    except KeyboardInterrupt:
        outcome = "interrupted"
        log.tell("interrupted", {})
        raise
    except BaseException as error:
        log.tell("failed", {"error": type(error).__name__, "message": str(error)})
        raise
    finally:
        log.dismiss(outcome)


def placing(ledger: Ledger, log: ProgressLog) -> Callable[[list[dict[str, Any]]], None]:
    """Who is told where the workers are, so that `evolve status` knows it: nowhere until then."""

    def placed(rows: list[dict[str, Any]]) -> None:
        ledger.set_attribute(PLACEMENT, rows)
        log.tell("placement", {"nodes": rows})

    if ledger.attribute(PLACEMENT):
        ledger.set_attribute(PLACEMENT, [])  # of an earlier start
    return placed


def result_fields(headline: str, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What came of a run: the winner on the report documents, and its gain over the strongest other model."""
    winner = verdict["rows"][0]
    best = next((row for row in verdict["rows"] if row["name"] == verdict["best"]), winner)
    metrics = {f"report/{task}": value for task, value in winner["metrics"].items()}
    metrics |= {} if winner["mean"] is None else {"report/mean": winner["mean"]}
    gain = best["gain"] or {}
    metrics |= {f"report/gain {part}": gain[part] for part in ("mean", "low", "high") if part in gain}
    return {"headline": headline, "metrics": metrics, "files": ["best.yaml", "report.md"]}


def start_fields(config: SearchConfig, findings: Findings) -> dict[str, Any]:
    """`workers` is None where a cluster decides."""
    workers, surroundings = findings.workers, describe()
    return {
        "version": metadata.version("merge-evolve"),
        "process": os.getpid(),
        "name": config.name,
        "workers": None
        if workers is None
        else {"count": workers.count, "threads": workers.threads, "gpus": workers.gpus},
        "address": config.run.address,
        "budget": {"trials": config.search.trials, "hours": config.search.hours, "documents": config.search.documents},
        **{name: surroundings[name] for name in ("python", "platform", "cores", "versions")},
    }
