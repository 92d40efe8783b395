"""A run in a database that Optuna's RDBStorage made: SQLite, PostgreSQL or MySQL.

Optuna makes the tables, checks their version and makes the study. Trials are then written and read through its table
models by statements of our own, for three reasons: its own writer makes a statement for each parameter and counts all
trials before; it tries again where the answer to a commit was lost, which records a trial twice; and its reader builds
an object for each parameter of each trial.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from evolve.errors import RunError
from evolve.storage import Attributes, engine_arguments, limit_silence, no_run

FINISHED = (TrialState.COMPLETE, TrialState.FAIL)
BATCH = 1000  # rows fetched at once

Studies, Trials = models.StudyModel, models.TrialModel
Attribute, StudyAttribute = models.TrialUserAttributeModel, models.StudyUserAttributeModel
Value, Parameter = models.TrialValueModel, models.TrialParamModel


class Database:
    """A Store. Raises the database's own errors, and RunError where a run `must_exist` and does not."""

    def __init__(self, url: str, name: str, *, must_exist: bool = False) -> None:
        self._storage = RDBStorage(url, engine_kwargs=engine_arguments(url))
        self._engine = self._storage.engine
        self._engine.dispose()
        limit_silence(self._engine)
        self._study = self._find(url, name, must_exist)
        with Session(self._engine) as session:
            counted = select(func.count(Trials.trial_id), func.max(Trials.trial_id))
            self._count, last = session.execute(counted.where(Trials.study_id == self._study)).one()
        self._last: int = -1 if last is None else last

    def close(self) -> None:
        """Let go of the database: a connection whose transaction failed would keep its lock."""
        self._storage.remove_session()
        self._engine.dispose()

    def attributes(self, prefix: str) -> dict[str, Any]:
        rows = select(StudyAttribute.key, StudyAttribute.value_json).where(
            StudyAttribute.study_id == self._study, StudyAttribute.key.startswith(prefix, autoescape=True)
        )
        with Session(self._engine) as session:
            return {key: json.loads(text) for key, text in session.execute(rows)}

    def set_attribute(self, key: str, value: Any) -> None:
        self._storage.set_study_user_attr(self._study, key, value)

    def trials(self) -> Iterator[Attributes]:
        with Session(self._engine) as session:
            for _, attributes in self._since(session, -1):
                yield attributes

    def add(self, trial: FrozenTrial, known: Callable[[Attributes], bool]) -> None:
        with Session(self._engine) as session, session.begin():
            # A transaction of ours whose answer was lost holds this row's lock until it has ended one way or the other.
            session.execute(select(Studies.study_id).where(Studies.study_id == self._study).with_for_update())
            found = list(self._since(session, self._last))
            self._count, self._last = self._count + len(found), max([self._last, *(place for place, _ in found)])
            if any(known(attributes) for _, attributes in found):
                return
            place = self._insert(session, trial)
        self._count, self._last = self._count + 1, place

    def _insert(self, session: Session, trial: FrozenTrial) -> int:
        now = datetime.now()
        row = Trials(
            study_id=self._study, number=self._count, state=trial.state, datetime_start=now, datetime_complete=now
        )
        session.add(row)
        session.flush()
        place = int(row.trial_id)
        if trial.value is not None:
            value, kind = Value.value_to_stored_repr(trial.value)
            session.execute(insert(Value).values(trial_id=place, objective=0, value=value, value_type=kind))
        parameters = [
            {
                "trial_id": place,
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in trial.distributions.items()
        ]
        if parameters:
            session.execute(insert(Parameter), parameters)
        attributes = trial.user_attrs.items()
        session.execute(
            insert(Attribute),
            [{"trial_id": place, "key": key, "value_json": json.dumps(value)} for key, value in attributes],
        )
        return place

    def _since(self, session: Session, last: int) -> Iterator[tuple[int, Attributes]]:
        """The finished trials whose row numbers are above `last`, with these."""
        query = (
            select(Attribute.trial_id, Attribute.key, Attribute.value_json)
            .join(Trials, Trials.trial_id == Attribute.trial_id)
            .where(Trials.study_id == self._study, Trials.trial_id > last, Trials.state.in_(FINISHED))
            .order_by(Attribute.trial_id)
        )
        rows = session.execute(query.execution_options(yield_per=BATCH))
        for place, group in groupby(rows, key=lambda row: int(row[0])):
            yield place, {key: json.loads(text) for _, key, text in group}

    def _find(self, url: str, name: str, must_exist: bool) -> int:
        try:
            return self._storage.get_study_id_from_name(name)
        except KeyError:
            if must_exist:
                raise RunError(no_run(url, name)) from None
        return self._storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
