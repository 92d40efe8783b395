"""Trackers beside a search, each on a thread of its own: neither a slow server nor one that is down holds a candidate
up, and whatever a tracker raises ends that tracker alone.

results/<name>/trackers/ holds a folder a tracker, and NAME.json: what the tracker calls the run, and the time of the
last candidate that it was told of. A later start goes on there with what is missing, so a tracker may also be added
later, or catch up after a server was away.
"""

from __future__ import annotations

import importlib
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from engine.lookup import lookup
from evolve.atomic import write_json
from evolve.config.search_yaml import SearchConfig
from evolve.credentials import secrets_of
from evolve.errors import RunError
from evolve.preparation.guard import flat
from evolve.trackers import TRACKERS
from evolve.trackers.tracker import Opening, Row, Tracker
from evolve.trial import Trial
from evolve.watching.progress import WARNING, Outcome
from evolve.watching.run_log import plain

PATIENCE = {"finished": 60.0, "interrupted": 10.0, "failed": 10.0}  # seconds for what is still to be told at the end
ENDS: dict[str, Outcome] = {"end": "finished", "interrupted": "interrupted", "failed": "failed"}  # by event
RESULT = "result"  # the event with `headline`, `metrics` and `files`, which ends what there is to tell

Telling = Callable[[Tracker], float | None]  # returns until when all has been told now


def check_trackers(names: Sequence[str]) -> None:
    """Raises RunError with a line for each tracker that cannot be used here; their libraries are imported."""
    problems = [f"run.trackers ({name}): {problem}" for name in dict.fromkeys(names) if (problem := problem_of(name))]
    if problems:
        raise RunError("\n".join(problems))


def problem_of(name: str) -> str | None:
    """Why a tracker cannot be used here. Raises UnknownName."""
    row = lookup(TRACKERS, name, "run.trackers")
    try:
        importlib.import_module(row.library)
    except Exception as error:  # a library's own troubles as well
        return (
            f"its library cannot be imported ({' '.join(str(error).split())[:200]}); "
            f"pip install {name}, or leave it out"
        )
    return row.lacking()


def trackings(config: SearchConfig, say: Callable[[str], None]) -> list[Tracking]:
    """Those that the configuration asks for, at work."""
    return [Tracking(name, TRACKERS[name], config, say) for name in dict.fromkeys(config.run.trackers)]


class Tracking:
    """One tracker, which listens. `say`: who is told that it failed."""

    def __init__(self, name: str, row: Row, config: SearchConfig, say: Callable[[str], None]) -> None:
        self._name, self._row, self._say = name, row, say
        self._run_folder = config.folder
        self._mark = config.folder / "trackers" / f"{name}.json"
        self._folder = config.folder / "trackers" / name
        self._parameters, self._run_name = parameters_of(config), config.name
        self._told = 0.0
        self._outcome: Outcome = "failed"
        self._until: float | None = None
        self._queue: queue.SimpleQueue[Telling | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def hear(self, event: str, fields: Mapping[str, Any]) -> None:
        if event in ENDS:  # all trackers hear of it at once, and end side by side
            self._end(ENDS[event])
        if event == RESULT:
            files = [self._run_folder / file for file in fields["files"]]
            self._queue.put(partial(summed_up, fields["headline"], fields["metrics"], files))

    def trial(self, trial: Trial, best: float | None, *, new: bool) -> None:
        self._queue.put(partial(self._log, trial, best))

    def close(self, outcome: Outcome) -> None:
        """Wait for what is still to be told, but not for ever: the next start tells the rest."""
        self._thread.join(max(0.0, self._end(outcome) - time.monotonic()))
        if self._thread.is_alive():
            self._say(
                f"{WARNING}run.trackers ({self._name}): does not answer; `evolve run` tells it the rest when it is "
                "started again"
            )

    def _end(self, outcome: Outcome) -> float:
        """Nothing comes any more; returns until when to wait, by the monotonic clock."""
        if self._until is None:
            self._until, self._outcome = time.monotonic() + PATIENCE[outcome], outcome
            self._queue.put(None)
        return self._until

    def _work(self) -> None:
        try:
            known = self._known()
            tracker = self._row.open(Opening(self._run_name, self._folder, known.get("run"), self._parameters))
            if tracker.run == known.get("run"):
                self._told = float(known["told"])
            try:
                self._tell(tracker)
            finally:
                tracker.close(self._outcome)
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._say(f"{WARNING}run.trackers ({self._name}): {what}; it is left out until the next start")

    def _tell(self, tracker: Tracker) -> None:
        """All that comes, until there is nothing to come."""
        try:
            self._keep(tracker)
            while (telling := self._queue.get()) is not None:
                self._told = telling(tracker) or self._told
                if self._queue.empty():  # a pause, in which it does no harm that this takes a moment
                    self._keep(tracker)
        finally:
            self._keep(tracker)

    def _log(self, trial: Trial, best: float | None, tracker: Tracker) -> float | None:
        if trial.finished < self._told:  # by an earlier start
            return None
        tracker.log(trial.id, metrics_of(trial, best), trial.finished)
        return trial.finished

    def _known(self) -> dict[str, Any]:
        """What an earlier start wrote; nothing where that is lost, which begins a run of its own."""
        with suppress(OSError, ValueError):
            known = json.loads(self._mark.read_text(encoding="utf-8"))
            if isinstance(known, dict) and isinstance(known.get("run"), str):
                return {"told": 0.0, **known}
        return {}

    def _keep(self, tracker: Tracker) -> None:
        write_json(self._mark, {"run": tracker.run, "told": self._told})


def summed_up(headline: str, metrics: Mapping[str, float], files: Sequence[Path], tracker: Tracker) -> None:
    tracker.sum_up(headline, metrics, [file for file in files if file.is_file()])


def metrics_of(trial: Trial, best: float | None) -> dict[str, float]:
    """What trackers show of a trial; of a failure, that it is one."""
    metrics = {"failed": float(trial.failure is not None), "documents": float(trial.documents)}
    metrics["seconds"] = trial.seconds.get("total", 0.0)
    if best is not None:
        metrics["best"] = best
    if trial.value is not None:
        metrics |= {"value": trial.value, "standard_error": trial.standard_error}
    metrics |= {f"task/{task}": value for task, value in trial.tasks.items()}
    metrics |= {f"loglikelihood/{task}": value for task, value in trial.loglikelihoods.items()}
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def parameters_of(config: SearchConfig) -> dict[str, str]:
    """The configuration by dotted key; the storage, which may hold a password, is left out."""
    given = flat(config.model_dump(mode="json", exclude={"run": {"storage"}}))
    secrets = secrets_of(config.run.storage)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return {key: plain(text, secrets) for key, text in texts.items()}
