"""Where a lease stands: a row of the database, or a file beside the journal. Both change hands in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Float,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from evolve.atomic import replacing
from evolve.errors import RunError
from evolve.storage.journal import locked
from evolve.storage.storage import engine_arguments

LEASES = Table(
    "evolve_leases",
    MetaData(),
    Column("run", String(255), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", Float(53), nullable=False),
    Column("beat", BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Holder:
    """A driver: `owner` names this start of it, `started` (seconds since the epoch) its process, `beat` its counter."""

    owner: str
    host: str
    pid: int
    started: float
    beat: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split()[0]}"


class Slot(Protocol):
    """Every call is one step in the storage, whose errors it raises."""

    def holder(self) -> Holder | None: ...

    def take(self, before: Holder | None, mine: Holder) -> bool:
        """Take the lease if it still stands as `before` (None: free); whether it was taken."""

    def beat(self, owner: str) -> bool:
        """Raise the counter; False where another one holds the lease."""

    def release(self, owner: str) -> None: ...

    def close(self) -> None: ...


class RowSlot:
    """A row of the table `evolve_leases`, made when it is first taken. An empty owner: free."""

    def __init__(self, url: str, run: str) -> None:
        self._run = run
        self._engine = create_engine(url, **engine_arguments(url))

    def holder(self) -> Holder | None:
        if not inspect(self._engine).has_table(LEASES.name):
            return None
        with self._engine.connect() as connection:
            row = connection.execute(select(LEASES).where(LEASES.c.run == self._run)).one_or_none()
        if row is None or not row.owner:
            return None
        return Holder(row.owner, row.host, row.pid, row.started, row.beat)

    def take(self, before: Holder | None, mine: Holder) -> bool:
        LEASES.metadata.create_all(self._engine, checkfirst=True)
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(LEASES).values(run=self._run, **asdict(mine)))
            return True
        except IntegrityError:
            pass
        free = LEASES.c.owner == ""
        if before is not None:
            free = (LEASES.c.owner == before.owner) & (LEASES.c.beat == before.beat)
        return self._update(free, asdict(mine))

    def beat(self, owner: str) -> bool:
        return self._update(LEASES.c.owner == owner, {"beat": LEASES.c.beat + 1})

    def release(self, owner: str) -> None:
        self._update(LEASES.c.owner == owner, {"owner": ""})

    def close(self) -> None:
        self._engine.dispose()

    def _update(self, where: ColumnElement[bool], values: Mapping[str, Any]) -> bool:
        with self._engine.begin() as connection:
            result = connection.execute(update(LEASES).where(LEASES.c.run == self._run, where).values(**values))
        return result.rowcount == 1


class FileSlot:
    """A small file `<journal>.<run>.lease`, replaced under a lock of its own. No file: free."""

    def __init__(self, journal: Path, run: str) -> None:
        self._path = journal.with_name(f"{journal.name}.{run}.lease")

    def holder(self) -> Holder | None:
        try:
            return Holder(**json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise RunError(f"{self._path}: is no lease ({error}); remove it if no driver is at work") from None

    def take(self, before: Holder | None, mine: Holder) -> bool:
        with locked(self._path):
            free = self.holder() == before
            if free:
                self._write(mine)
        return free

    def beat(self, owner: str) -> bool:
        with locked(self._path):
            now = self.holder()
            mine = now is not None and now.owner == owner
            if now is not None and mine:
                self._write(replace(now, beat=now.beat + 1))
        return mine

    def release(self, owner: str) -> None:
        with locked(self._path):
            now = self.holder()
            if now is not None and now.owner == owner:
                self._path.unlink()

    def close(self) -> None:
        """Nothing is held."""

    def _write(self, holder: Holder) -> None:
        with replacing(self._path) as file:
            file.write(json.dumps(asdict(holder)).encode())
