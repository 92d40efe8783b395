"""A run in a database that Optuna's RDBStorage made: SQLite, PostgreSQL or MySQL.

Optuna makes the tables, checks their version and makes the study. Trials are then written and read through its table
models by statements of our own, for three reasons: its own writer makes a statement for each parameter and counts all
trials before; it tries again where the answer to a commit was lost, which records a trial twice; and its reader builds
an object for each parameter of each trial.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, bindparam, create_engine, func, insert, inspect, select

from evolve.storage.shown import distribution_text
from evolve.storage.storage import Attributes, engine_arguments, limit_silence, no_run
from evolve.storage.urls import file_of

FINISHED = (TrialState.COMPLETE, TrialState.FAIL)
BATCH = 1000  # rows fetched at once
UTC = hasattr(models.TrialModel, "_datetime_start_utc")  # what the tables hold; local time before Optuna 5

STUDIES, TRIALS = models.StudyModel.__table__.c, models.TrialModel.__table__.c
OF_TRIAL, OF_STUDY = models.TrialUserAttributeModel.__table__.c, models.StudyUserAttributeModel.__table__.c
INSERT_TRIAL = insert(models.TrialModel.__table__)
INSERT_VALUE = insert(models.TrialValueModel.__table__)
INSERT_PARAMETER = insert(models.TrialParamModel.__table__)
INSERT_ATTRIBUTE = insert(models.TrialUserAttributeModel.__table__)
LOCK = select(STUDIES.study_id).where(STUDIES.study_id == bindparam("study")).with_for_update()
COUNT = select(func.count(TRIALS.trial_id), func.max(TRIALS.trial_id)).where(TRIALS.study_id == bindparam("study"))
SINCE = (
    select(OF_TRIAL.trial_id, OF_TRIAL.key, OF_TRIAL.value_json)
    .join_from(models.TrialUserAttributeModel.__table__, models.TrialModel.__table__)
    .where(TRIALS.study_id == bindparam("study"), TRIALS.trial_id > bindparam("last"), TRIALS.state.in_(FINISHED))
    .order_by(OF_TRIAL.trial_id)
)


def check_there(url: str, name: str) -> None:
    """Raises RunError for a database without runs, before Optuna makes its tables in what may be anybody's."""
    file = file_of(url)
    if file is not None and not file.is_file():  # opening would make it
        raise no_run(url, name)
    engine = create_engine(url, **engine_arguments(url))
    try:
        if not inspect(engine).has_table(models.StudyModel.__tablename__):
            raise no_run(url, name)
    finally:
        engine.dispose()


class Database:
    """A Store. Raises the database's own errors, and RunError where a run `must_exist` and does not."""

    def __init__(self, url: str, name: str, *, must_exist: bool = False) -> None:
        if must_exist:
            check_there(url, name)
        self._storage = RDBStorage(url, engine_kwargs=engine_arguments(url))
        self._engine = self._storage.engine
        self._engine.dispose()
        limit_silence(self._engine)
        self._study = self._find(url, name, must_exist)
        with self._engine.connect() as connection:
            self._count, last = connection.execute(COUNT, {"study": self._study}).one()
        self._last: int = -1 if last is None else last

    def close(self) -> None:
        """Let go of the database: a connection whose transaction failed would keep its lock."""
        self._storage.remove_session()
        self._engine.dispose()

    def attributes(self, prefix: str) -> dict[str, Any]:
        rows = select(OF_STUDY.key, OF_STUDY.value_json).where(
            OF_STUDY.study_id == self._study, OF_STUDY.key.startswith(prefix, autoescape=True)
        )
        with self._engine.connect() as connection:
            return {key: json.loads(text) for key, text in connection.execute(rows)}

    def set_attribute(self, key: str, value: Any) -> None:
        self._storage.set_study_user_attr(self._study, key, value)

    def trials(self) -> Iterator[Attributes]:
        with self._engine.connect() as connection:
            for _, attributes in self._since(connection, -1):
                yield attributes

    def add(self, trial: FrozenTrial, known: Callable[[Attributes], bool]) -> None:
        with self._engine.begin() as connection:
            # A transaction of ours whose answer was lost holds this row's lock until it has ended one way or the other.
            connection.execute(LOCK, {"study": self._study})
            found = list(self._since(connection, self._last))
            self._count, self._last = self._count + len(found), max([self._last, *(place for place, _ in found)])
            if any(known(attributes) for _, attributes in found):
                return
            place = self._insert(connection, trial)
        self._count, self._last = self._count + 1, place

    def _insert(self, connection: Connection, trial: FrozenTrial) -> int:
        now = datetime.now(timezone.utc).replace(tzinfo=None) if UTC else datetime.now()
        row = {"study_id": self._study, "number": self._count, "state": trial.state}
        made = connection.execute(INSERT_TRIAL, {**row, "datetime_start": now, "datetime_complete": now})
        (place,) = made.inserted_primary_key or (0,)
        if trial.value is not None:
            value, kind = models.TrialValueModel.value_to_stored_repr(trial.value)
            connection.execute(INSERT_VALUE, {"trial_id": place, "objective": 0, "value": value, "value_type": kind})
        parameters = [
            {
                "trial_id": place,
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_text(distribution),
            }
            for name, distribution in trial.distributions.items()
        ]
        if parameters:
            connection.execute(INSERT_PARAMETER, parameters)
        attributes = trial.user_attrs.items()
        connection.execute(
            INSERT_ATTRIBUTE,
            [{"trial_id": place, "key": key, "value_json": json.dumps(value)} for key, value in attributes],
        )
        return int(place)

    def _since(self, connection: Connection, last: int) -> Iterator[tuple[int, Attributes]]:
        """The finished trials whose row numbers are above `last`, with these."""
        batches = {"yield_per": BATCH} if last < 0 else {}  # the few that are new need no cursor of the server's
        rows = connection.execute(SINCE, {"study": self._study, "last": last}, execution_options=batches)
        for place, group in groupby(rows, key=lambda row: int(row[0])):
            yield place, {key: json.loads(text) for _, key, text in group}

    def _find(self, url: str, name: str, must_exist: bool) -> int:
        try:
            return self._storage.get_study_id_from_name(name)
        except KeyError:
            if must_exist:
                raise no_run(url, name) from None
        return self._storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
