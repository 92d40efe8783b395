"""The ledger: finished trials and decisions in an Optuna storage, each written in one transaction.

A trial is one `add_trial` with everything in one attribute; up to `SHOWN_GENES` genes are also written as
parameters, for dashboards. Decisions are events: attributes of the study named `event:<number>`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from evolve.errors import RunError
from evolve.optimizers.sampler import distribution
from evolve.trial import Failure, Trial
from search_spaces.gene import Gene, Value

SHOWN_GENES = 50
START, SEARCH_ENDED = "start", "search ended"  # kinds of events; the second tells why, and after how many trials
SQLITE_WAIT = 60  # seconds that a writer waits for another one's lock


class Ledger:
    """One run's record. Several runs share a database under their names."""

    def __init__(self, url: str, name: str, *, must_exist: bool = False) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.url, self.name = url, name
        self.hear: Callable[[dict[str, Any]], None] = lambda event: None  # told of every event once it is recorded
        arguments = {"connect_args": {"timeout": SQLITE_WAIT}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        check_url(url)
        with storage_errors(url):
            self._storage = RDBStorage(url, engine_kwargs=arguments)
            if must_exist and name not in storage_names(self._storage):
                raise RunError(f"run.storage ({hidden(url)}): holds no run named {name}; begin it with `evolve run`")
            if must_exist:  # only reads
                self._study = optuna.load_study(storage=self._storage, study_name=name)
            else:
                self._study = optuna.create_study(
                    storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
                )

    def close(self) -> None:
        """Let go of the database: a connection whose transaction failed would keep its lock."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def trials(self) -> list[Trial]:
        """The finished trials by candidate id."""
        with storage_errors(self.url):
            frozen = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        return sorted(map(from_frozen, frozen), key=lambda trial: trial.id)

    def record(self, trial: Trial, genes: tuple[Gene, ...], values: dict[str, Value]) -> None:
        """Write a finished trial in one transaction. `values`: the genes' at its point; none outside of the space."""
        shown = {gene.name: gene for gene in genes[:SHOWN_GENES] if gene.name in values}
        frozen = create_trial(
            state=TrialState.FAIL if trial.failure else TrialState.COMPLETE,
            value=trial.value,
            params={name: values[name] for name in shown},
            distributions={name: distribution(gene) for name, gene in shown.items()},
            user_attrs={"evolve": asdict(trial)},
        )
        with storage_errors(self.url):
            self._study.add_trial(frozen)

    def attribute(self, key: str) -> Any:
        """What `set_attribute` wrote under `key`, or None."""
        with storage_errors(self.url):
            return self._study.user_attrs.get(key)

    def set_attribute(self, key: str, value: Any) -> None:
        with storage_errors(self.url):
            self._study.set_user_attr(key, value)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The recorded decisions, oldest first; only those of `kind` if it is given."""
        with storage_errors(self.url):
            attributes = self._study.user_attrs
        events = [attributes[key] for key in sorted(attributes) if key.startswith("event:")]
        return [event for event in events if kind in (None, event["kind"])]

    def add_event(self, kind: str, **facts: Any) -> None:
        number = len(self.events())
        event = {"kind": kind, "at": time.time(), **facts}
        self.set_attribute(f"event:{number:06d}", event)
        self.hear(event)


def storage_names(storage: RDBStorage) -> list[str]:
    """The runs in a storage."""
    return optuna.get_all_study_names(storage)


def from_frozen(frozen: optuna.trial.FrozenTrial) -> Trial:
    data = dict(frozen.user_attrs["evolve"])
    failure = data.pop("failure")
    data["point"] = tuple(data["point"])
    return Trial(**data, failure=Failure(**failure) if failure else None)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns the database's own errors into one message. The password in a URL is never shown."""
    try:
        yield
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
        OSError,
        ImportError,
    ) as error:
        cause = error.__cause__ or getattr(error, "orig", None) or error
        raise RunError(
            f"run.storage ({hidden(url)}): {' '.join(str(cause).split())[:300]}; "
            "check that it can be reached and written, then run the same command again"
        ) from error


def check_url(url: str) -> None:
    """Raises RunError for what is no database URL. It is not shown: it may hold a password."""
    try:
        sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise RunError(
            "run.storage: is not a database URL; write one such as postgresql://user:password@host:5432/name, "
            "or null for a file in the run's folder"
        ) from None


def hidden(url: str) -> str:
    """The URL without its password, and without its options, which may hold one."""
    try:
        return sqlalchemy.engine.make_url(url).set(query={}).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return "not a database URL"
