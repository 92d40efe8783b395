"""A run in a journal file of Optuna's, for folders that several machines share: one operation a line, appended.

Lines are written and read here, in Optuna's form, since its JournalStorage holds every trial of every run in memory,
and since a line that a killed process left half-written spoils what is appended after it. Here that tail is cut before
anything is appended, under the file's lock. What was never acknowledged is all that is lost.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evolve.errors import RunError
from evolve.storage.shown import distribution_text
from evolve.storage.storage import Attributes, no_run
from evolve.storage.urls import JOURNAL

CREATE_STUDY, DELETE_STUDY, SET_STUDY_USER_ATTR, CREATE_TRIAL = 0, 1, 2, 4  # Optuna's numbers of operations
OPERATION, TRIAL = b'{"op_code":', b'{"op_code":4,'  # how a line begins, and one with a trial
TORN = ".torn"  # beside a journal: what was cut from it

Operation = dict[str, Any]


class Journal:
    """A Store. Raises OSError, and RunError where a run `must_exist` and does not: then it is only read."""

    def __init__(self, path: Path, name: str, *, must_exist: bool = False) -> None:
        self._path, self._name = path, name
        self._worker = f"{uuid.uuid4()}-evolve"
        self._begun, self._lines = 0, 0  # bytes and lines that were taken in
        self._studies: dict[str, int] = {}
        self._next = 0  # a study's number
        self._attributes: dict[str, Any] = {}
        if must_exist and not path.is_file():
            raise no_run(f"{JOURNAL}{path}", name)
        if must_exist:
            self._catch_up()
        else:
            self._make()
        if name not in self._studies:
            raise no_run(f"{JOURNAL}{path}", name)

    def close(self) -> None:
        """Nothing is held."""

    def attributes(self, prefix: str) -> dict[str, Any]:
        self._catch_up()
        return {key: value for key, value in self._attributes.items() if key.startswith(prefix)}

    def set_attribute(self, key: str, value: Any) -> None:
        with locked(self._path):
            self._append(SET_STUDY_USER_ATTR, {"user_attr": {key: value}})
        self._catch_up()

    def trials(self) -> Iterator[Attributes]:
        self._catch_up()
        for number, line in self._read(0, 0):
            if TRIAL in line and (attributes := self._finished(self._parsed(number, line))) is not None:
                yield attributes

    def add(self, trial: FrozenTrial, known: Callable[[Attributes], bool]) -> None:
        with locked(self._path):
            cut_torn_tail(self._path)
            # What is appended is taken in by the next call, also where that is another attempt at the same.
            if not any(known(attributes) for attributes in self._catch_up()):
                self._append(CREATE_TRIAL, operation(trial))

    def _make(self) -> None:
        """Mend what is damaged and begin the run, unless it stands there."""
        with locked(self._path):
            with self._path.open("ab"):
                pass
            cut_torn_tail(self._path)
            self._catch_up(mend=True)
            if self._name not in self._studies:
                self._append(
                    CREATE_STUDY, {"study_name": self._name, "directions": [int(StudyDirection.MAXIMIZE)]}, study=False
                )
                self._catch_up()

    def _append(self, code: int, facts: Operation, *, study: bool = True) -> None:
        number = {"study_id": self._studies[self._name]} if study else {}
        line = json.dumps({"op_code": code, "worker_id": self._worker, **number, **facts}, separators=(",", ":"))
        cut_torn_tail(self._path)
        with self._path.open("ab") as file:
            file.write(line.encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, begin: int, number: int) -> Iterator[tuple[int, bytes]]:
        """The whole lines from byte `begin` on, counted from `number`. What follows the last one is being written."""
        with self._path.open("rb") as file:
            file.seek(begin)
            for number, line in enumerate(file, number):  # noqa: B020
                if line.endswith(b"\n"):
                    yield number, line

    def _catch_up(self, mend: bool = False) -> list[Attributes]:
        """Take in what was written since; returns the run's trials among it, unless all is new."""
        new: list[Attributes] = []
        fresh = self._begun == 0
        for number, line in self._read(self._begun, self._lines):
            skipped = fresh and line.startswith(TRIAL) and line.count(OPERATION) == 1
            if not skipped:
                parsed = self._parsed(number, line, self._begun if mend else None)
                self._apply(parsed)
                if not fresh and (attributes := self._finished(parsed)) is not None:
                    new.append(attributes)
            self._begun, self._lines = self._begun + len(line), number + 1
        return new

    def _apply(self, made: Operation) -> None:
        code = made["op_code"]
        if code == CREATE_STUDY and made["study_name"] not in self._studies:
            self._studies[made["study_name"]] = self._next
            self._next += 1
        elif code == DELETE_STUDY:
            self._studies = {name: each for name, each in self._studies.items() if each != made["study_id"]}
        elif code == SET_STUDY_USER_ATTR and made["study_id"] == self._studies.get(self._name):
            self._attributes |= made["user_attr"]

    def _finished(self, made: Operation) -> Attributes | None:
        """The attributes of a finished trial of this run; None of any other operation."""
        if made["op_code"] != CREATE_TRIAL or made["study_id"] != self._studies.get(self._name):
            return None
        finished = made.get("state") in (TrialState.COMPLETE, TrialState.FAIL)
        return dict(made["user_attrs"]) if finished else None

    def _parsed(self, number: int, line: bytes, mend_at: int | None = None) -> Operation:
        """The operation of a line. One that was appended to half of another is found in it, and `mend_at` its place
        the half is blanked, which Optuna then reads as well. Raises RunError."""
        start = 0
        while start >= 0:
            try:
                made = json.loads(line[start:])
                if isinstance(made, dict) and "op_code" in made:
                    break
            except ValueError:
                pass
            start = line.find(OPERATION, start + 1)
        else:
            raise RunError(
                f"run.storage ({JOURNAL}{self._path}): line {number + 1} is damaged; remove that line, or put back a "
                "copy of the file from before"
            )
        if start and mend_at is not None:
            keep_aside(self._path, line[:start])
            with self._path.open("r+b") as file:
                file.seek(mend_at)
                file.write(b" " * start)
        return dict(made)


def operation(trial: FrozenTrial) -> Operation:
    """What Optuna's JournalStorage writes of a finished trial."""
    now = datetime.now(tz=timezone.utc).isoformat(timespec="microseconds")
    return {
        "datetime_start": now,
        "datetime_complete": now,
        "state": int(trial.state),
        "value": trial.value,
        "values": None,
        "distributions": {name: distribution_text(each) for name, each in trial.distributions.items()},
        "params": {name: each.to_internal_repr(trial.params[name]) for name, each in trial.distributions.items()},
        "user_attrs": trial.user_attrs,
        "system_attrs": {},
        "intermediate_values": {},
    }


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that Optuna takes on a journal, which holds between machines as well. Raises OSError."""
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        try:
            lock.release()
        except RuntimeError as error:  # it was taken for a dead one's: what was to be written may stand among others'
            raise TimeoutError(110, f"{path}: held its lock for too long") from error


def cut_torn_tail(path: Path) -> None:
    """Cut what a killed process left half-written, and keep it aside. Whoever calls holds the lock."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        tail = last_line(file, size)
        if tail:
            keep_aside(path, tail)
            file.truncate(size - len(tail))
            os.fsync(file.fileno())


def last_line(file: IO[bytes], size: int, block: int = 65536) -> bytes:
    """What follows the last line break."""
    tail = b""
    while size > 0 and b"\n" not in tail:
        begin = max(0, size - block)
        file.seek(begin)
        tail = file.read(size - begin) + tail
        size = begin
    return tail.rpartition(b"\n")[2]


def keep_aside(path: Path, torn: bytes) -> None:
    with path.with_name(path.name + TORN).open("ab") as file:
        file.write(torn + b"\n")
