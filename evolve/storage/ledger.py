"""The ledger: finished trials and decisions in a storage that Optuna reads as well, each written in one transaction.

A trial is one row with everything in one attribute; up to `SHOWN_GENES` genes are also written as parameters, for
dashboards. Decisions are events: attributes of the study named `event:<number>`. Values that are too large for some
databases stand in parts (see `parts`).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import optuna
from pydantic import TypeAdapter

from evolve.errors import RunError
from evolve.storage.database import Database
from evolve.storage.journal import Journal
from evolve.storage.parts import PREFIX, cut, is_head, joined, packed, unpacked
from evolve.storage.shown import frozen
from evolve.storage.storage import Attributes, Patience, Store, storage_errors, with_driver
from evolve.storage.urls import check_url, journal_path
from evolve.trial import Trial
from search_spaces.gene import Gene, Value

START, SEARCH_ENDED = "start", "search ended"  # kinds of events; the second tells why, and after how many trials
EVENT = "event:"
TRIAL = "evolve"  # the attribute of a trial
STORED = TypeAdapter(Trial)


class Ledger:
    """One run's record. Several runs share a storage under their names.

    A storage that is away after it was opened is waited for, which `say` is told.
    """

    def __init__(
        self, url: str, name: str, *, must_exist: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.url, self.name = url, name
        self.hear: Callable[[dict[str, Any]], None] = lambda event: None  # told of every event once it is recorded
        self._patiently = Patience(url, say)
        with storage_errors(url):
            self._store = open_store(url, name, must_exist=must_exist)
        self._events: int | None = None  # how many there are, once that is known

    def close(self) -> None:
        """Let go of the storage."""
        self._store.close()

    def trials(self) -> list[Trial]:
        """The finished trials by candidate id."""
        found = self._patiently(lambda: [from_attributes(each) for each in self._store.trials()])
        return sorted({trial.id: trial for trial in reversed(found)}.values(), key=lambda trial: trial.id)

    def record(self, trial: Trial, genes: tuple[Gene, ...], values: dict[str, Value]) -> None:
        """Write a finished trial in one transaction, once, also where the answer to the first attempt was lost.

        `values`: the genes' at its point; none outside of the space.
        """
        value = None if trial.failure else trial.value
        made = frozen(value, genes, values, cut(TRIAL, as_data(trial)))
        self._patiently(partial(self._store.add, made, lambda each: from_attributes(each).id == trial.id))

    def attribute(self, key: str) -> Any:
        """What `set_attribute` wrote under `key`, or None."""
        return self._patiently(lambda: self._stored(key))

    def set_attribute(self, key: str, value: Any) -> None:
        before = self._patiently(lambda: self._store.attributes(key)).get(key)
        for each, content in cut(key, value, before).items():
            self._patiently(partial(self._store.set_attribute, each, content))

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The recorded decisions, oldest first; only those of `kind` if it is given."""
        found = self._patiently(lambda: self._all(EVENT))
        self._events = len(found)
        events = [found[key] for key in sorted(found)]
        return [event for event in events if kind in (None, event["kind"])]

    def add_event(self, kind: str, **facts: Any) -> None:
        number = len(self.events()) if self._events is None else self._events
        event = {"kind": kind, "at": time.time(), **facts}
        for each, content in cut(f"{EVENT}{number:06d}", event).items():
            self._patiently(partial(self._store.set_attribute, each, content))
        self._events = number + 1
        self.hear(event)

    def _stored(self, key: str) -> Any:
        found = self._store.attributes(key)
        if is_head(found.get(key)):
            found |= self._store.attributes(f"{PREFIX}{key}:")
        return joined(key, found) if key in found else None

    def _all(self, prefix: str) -> dict[str, Any]:
        found = self._store.attributes(prefix)
        parts = self._store.attributes(PREFIX + prefix) if any(map(is_head, found.values())) else {}
        return {key: joined(key, found | parts) for key in found}


def open_store(url: str, name: str, *, must_exist: bool) -> Store:
    """The run's place in the storage. Raises RunError and the storage's own errors."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_url(url)
    path = journal_path(url)
    return (
        Journal(path, name, must_exist=must_exist) if path else Database(with_driver(url), name, must_exist=must_exist)
    )


def as_data(trial: Trial) -> dict[str, Any]:
    failure = asdict(trial.failure) if trial.failure else None
    return {**vars(trial), "failure": failure, "point": packed(trial.point)}


def from_attributes(attributes: Attributes) -> Trial:
    """Raises RunError for what is no trial: a storage may be anybody's."""
    try:
        data = dict(joined(TRIAL, attributes))
        return STORED.validate_python({**data, "point": unpacked(data["point"])})
    except (ValueError, TypeError, LookupError, struct.error, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"run.storage: holds a trial that `evolve` did not write ({reason}); name the storage of a run"
        ) from None
