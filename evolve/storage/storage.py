"""Where ledgers stand: what a storage has to do, what is missing to open it, and what is waited for when it is away."""

from __future__ import annotations

import errno
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial

from evolve.errors import RunError
from evolve.storage.urls import hidden

SQLITE_WAIT = 60  # seconds that a writer waits for another one's lock
PATIENCE = 300.0  # seconds for which a storage that answered once may be away
PAUSE = 2.0  # seconds at most between two attempts
CONNECTING = 10  # seconds for a connection
SILENT = 60  # seconds after which a connection that says nothing in the midst of a transaction is given up
DRIVERS = {  # kind of database -> drivers and their modules, the preferred ones first
    "postgresql": (("psycopg2", "psycopg2"), ("psycopg", "psycopg")),
    "mysql": (("mysqldb", "MySQLdb"), ("pymysql", "pymysql")),
}

# Of a file system: it may answer again, as network folders do. A full or read-only one is the user's to mend.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EAGAIN, errno.EINTR}

Attributes = Mapping[str, Any]  # key -> what JSON can hold
Result = TypeVar("Result")


class Store(Protocol):
    """One run in a storage that Optuna reads as well. Every call is one transaction and may be made again."""

    def attributes(self, prefix: str) -> dict[str, Any]:
        """Attributes of the run whose keys begin with `prefix`."""

    def set_attribute(self, key: str, value: Any) -> None: ...

    def trials(self) -> Iterator[Attributes]:
        """The attributes of the finished trials in the order of recording."""

    def add(self, trial: FrozenTrial, known: Callable[[Attributes], bool]) -> None:
        """Write a finished trial, unless it stands there already: `known` of its attributes."""

    def close(self) -> None: ...


def with_driver(url: str) -> str:
    """The URL with a driver that is installed, where it names none: which one is meant differs between versions of
    SQLAlchemy."""
    kind, separator, rest = url.partition("://")
    for driver, module in DRIVERS.get(kind, ()):
        if importlib.util.find_spec(module) is not None:
            return f"{kind}+{driver}{separator}{rest}"
    return url


def engine_arguments(url: str) -> dict[str, Any]:
    """For `create_engine`: time-outs, without which a server that vanished is waited for by the hour."""
    postgresql = {"connect_timeout": CONNECTING, "keepalives_idle": 30, "tcp_user_timeout": SILENT * 1000}
    mysql = {"connect_timeout": CONNECTING, "read_timeout": 2 * SILENT, "write_timeout": 2 * SILENT}
    connecting: dict[str, dict[str, Any]] = {
        "sqlite": {"timeout": SQLITE_WAIT},
        "psycopg2": postgresql,
        "psycopg": postgresql,
        "pymysql": mysql,
        "mysqldb": mysql,
    }
    parsed = sqlalchemy.engine.make_url(url)
    kind = "sqlite" if parsed.get_backend_name() == "sqlite" else driver_of(parsed)
    arguments = {name: value for name, value in connecting.get(kind, {}).items() if name not in parsed.query}
    return {"connect_args": arguments, "pool_pre_ping": kind != "sqlite"}


def driver_of(url: sqlalchemy.engine.URL) -> str:
    try:
        return url.get_driver_name()
    except sqlalchemy.exc.NoSuchModuleError:  # opening it tells
        return ""


def limit_silence(engine: sqlalchemy.engine.Engine) -> None:
    """Let the server end a transaction whose client fell silent: it holds locks that the next attempt waits for."""
    statement = {
        "postgresql": f"SET idle_in_transaction_session_timeout = {SILENT * 1000}",
        "mysql": f"SET SESSION wait_timeout = {SILENT}",
        "mariadb": f"SET SESSION wait_timeout = {SILENT}",
    }.get(engine.dialect.name)

    def limit(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()

    if statement is not None:
        sqlalchemy.event.listen(engine, "connect", limit)


class Patience:
    """Waits for a storage that is away, for PATIENCE seconds, and says so once. `say`: to whom."""

    def __init__(self, url: str, say: Callable[[str], None] = lambda _: None) -> None:
        self._url, self._say = url, say

    def __call__(self, action: Callable[[], Result]) -> Result:
        """What `action` returns, which must bear being done again. Raises RunError."""
        since: float | None = None
        told = False
        while True:
            try:
                with storage_errors(self._url, 0 if since is None else time.monotonic() - since):
                    result = action()
            except RunError as error:
                since = time.monotonic() if since is None else since
                left = since + PATIENCE - time.monotonic()
                if not passing(error.__cause__) or left <= 0:
                    raise
                if not told:
                    self._say(f"the storage does not answer; waiting for up to {PATIENCE / 60:g} minutes")
                told = True
                time.sleep(min(PAUSE, left))
                continue
            if since is not None:
                self._say(f"the storage answers again after {time.monotonic() - since:.0f} seconds")
            return result


def passing(error: BaseException | None) -> bool:
    """Whether what went wrong with a storage may be over soon: its server restarts, or a folder's server is away."""
    if isinstance(error, optuna.exceptions.StorageInternalError):
        error = error.__cause__
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        lost = error.connection_invalidated or isinstance(
            error, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
        )
        return lost and not type(error.orig).__module__.startswith("sqlite3")
    return isinstance(error, OSError) and error.errno in PASSING


@contextmanager
def storage_errors(url: str, away: float = 0.0) -> Iterator[None]:
    """Turns the storage's own errors into one message. The password in a URL is never shown. `away`: seconds so far."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, ImportError) as error:
        told = " ".join(str(innermost(error)).split())[:300]
        waited = f"; waited for {away:.0f} seconds" if away else ""
        raise RunError(f"run.storage ({hidden(url)}): {told}{waited}; {remedy(told, url)}") from error


def innermost(error: BaseException) -> BaseException:
    """What the driver said: errors around it also hold statements and what was to be written."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return error.orig
    return innermost(error.__cause__) if error.__cause__ is not None else error


def remedy(told: str, url: str) -> str:
    if any(words in told.lower() for words in ("is full", "no space left", "quota exceeded", "could not extend file")):
        return "free disk space there, then run the same command again"
    if url.startswith("mysql") and "No module named" in told:
        return "install the driver (pip install 'pymysql[rsa]')"
    if url.startswith("postgres") and "No module named" in told:
        return "install the driver (pip install psycopg2-binary)"
    return "check that it can be reached and written, then run the same command again"


class NoRun(RunError):
    """The storage answers, or its file is not there yet, and it holds no run of this name."""


def no_run(url: str, name: str) -> NoRun:
    return NoRun(f"run.storage ({hidden(url)}): holds no run named {name}; begin it with `evolve run`")
