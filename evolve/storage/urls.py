"""The URL of a storage: what it may be, which file it names, and how it is shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

import sqlalchemy

from engine.lookup import nearest
from evolve.errors import RunError

JOURNAL = "journal:"
KINDS = ("sqlite", "journal", "postgresql", "mysql")
SPELLED = (*KINDS, "mariadb")  # MySQL by another name


def journal_path(url: str) -> Path | None:
    """The file of `journal:///folder/file`, `journal:/folder/file` or `journal:file`; None of a database's URL.

    As with file: URLs, what follows two slashes and the next one is a path from the root. Raises RunError.
    """
    if not url.startswith(JOURNAL):
        return None
    rest = url.removeprefix(JOURNAL)
    if names_host(url):
        raise RunError(
            f"run.storage ({hidden(url)}): names a host; write journal:///folder/file, or journal:file from here"
        )
    path = "/" + rest.lstrip("/") if rest.startswith("/") else rest
    if not path.strip("/") or path.endswith("/"):
        raise RunError(
            f"run.storage ({hidden(url)}): names no file; write journal:///folder/file, or journal:file from here"
        )
    return Path(path)


def names_host(url: str) -> bool:
    """Whether it is journal://host/..., which is none."""
    return bool(re.match(rf"{JOURNAL}//(?!/)", url))


def file_of(url: str) -> Path | None:
    """The file that a journal or SQLite keeps, None of a server's. Raises RunError."""
    path = journal_path(url)
    if path is not None:
        return path
    parsed = sqlalchemy.engine.make_url(url)
    file = parsed.database if parsed.get_backend_name() == "sqlite" else None
    return Path(file) if file and not file.startswith("file:") else None


def check_url(url: str) -> None:
    """Raises RunError for what is no storage's URL. What may be a password in it is not shown."""
    if journal_path(url) is not None:
        return
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise RunError(
            f"run.storage ({hidden(url)}): is not a database URL; write {likely(url)}one such as "
            "postgresql://user:password@host:5432/name, journal:///folder/file for a file in a shared folder, or null "
            "for a file in the run's folder"
        ) from None
    kind, _, driver = parsed.drivername.partition("+")
    if kind not in SPELLED:
        known = ", ".join(KINDS)
        raise RunError(
            f"run.storage ({hidden(url)}): {kind} is no kind of storage{nearest(kind, KINDS)}; known are {known}"
        )
    try:
        parsed.get_dialect()
    except sqlalchemy.exc.NoSuchModuleError:
        raise RunError(
            f"run.storage ({hidden(url)}): {driver} is no driver of {kind}; write {kind}://... without one"
        ) from None
    if kind == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise RunError(f"run.storage ({hidden(url)}): names no file; write sqlite:///folder/file.db")


def likely(text: str) -> str:
    """The URL of a path that was written without its kind, to be said before others; "" of what is none."""
    bare = not set(text) & set(":@?= ") and ("/" in text or "." in text)
    return f"sqlite:///{text}, or " if bare else ""


def check_file(url: str, made: Path) -> None:
    """Raises RunError where the file that the URL names cannot be made or written. `made`: a folder that will be."""
    file = file_of(url)
    if file is None:
        return
    folder, ours = file.absolute().parent, made.absolute()
    problem, todo = "", "make it, or name a file elsewhere"
    if os.path.isdir(file):  # which raises nothing
        problem, todo = f"{file} is a folder", "name a file in it"
    elif not os.path.isdir(folder) and folder not in (ours, *ours.parents):
        problem = f"there is no folder {folder}"
    elif there := next(
        (each for each in (file, folder) if os.path.exists(each) and not os.access(each, os.W_OK)), None
    ):
        problem, todo = f"{there} cannot be written", "make it writable, or name a file elsewhere"
    if problem:
        raise RunError(f"run.storage ({hidden(url)}): {problem}; {todo}")


def hidden(url: str) -> str:
    """The URL without its password, and without its options, which may hold one."""
    if url.startswith(JOURNAL):
        _, host, after = url.rpartition("@")
        return f"{JOURNAL}***@{after}" if host and names_host(url) else url
    try:
        return sqlalchemy.engine.make_url(url).set(query={}).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return without_secrets(url)


def without_secrets(text: str) -> str:
    """Of what is no URL, the parts in which nobody would have written a password."""
    plain = text.partition("?")[0]
    if set(plain) & set("= "):  # key=value pairs, one of which is the password, are a form of PostgreSQL's own
        return "..."
    _, host, after = plain.rpartition("@")
    if host:
        return f"***@{after}"
    kind, colon, _ = after.partition(":")
    return f"{kind}:..." if colon else after
