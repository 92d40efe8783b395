"""Which ledger a run's folder belongs to: an id that stands in both, and where that ledger stood.

Another storage of the same run may be the same ledger at another host, or restored from a copy; another ledger would
begin a second history in the folder.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

import sqlalchemy

from evolve.atomic import write_json
from evolve.config.search_yaml import SearchConfig, load_config
from evolve.errors import ConfigError, RunError
from evolve.storage.ledger import Ledger
from evolve.storage.storage import NoRun
from evolve.storage.urls import JOURNAL, check_file, check_url, file_of, hidden, journal_path

OWN = "study.db"  # the ledger in a run's folder, unless run.storage names another one
MARK = "ledger.json"  # in a run's folder
ID = "ledger"  # the ledger's attribute with its id
CONFIGURATION = "configuration"  # the one with what the run was begun with


@dataclass(frozen=True)
class Mark:
    """What a folder tells of its ledger: the run's name there, the ledger's `id` ("": not known), where it stood,
    without passwords, and of a file outside of the folder the `host` that wrote it ("": any)."""

    run: str
    id: str
    storage: str
    host: str = ""


@dataclass(frozen=True)
class Held:
    """What a storage holds under a run's name: the ledger's `id` ("": it has none), and whether a search was `begun`
    in it."""

    id: str
    begun: bool


def storage_url(config: SearchConfig) -> str:
    return config.run.storage or f"sqlite:///{config.folder / OWN}"


def place_of(config: SearchConfig) -> str:
    """Where the ledger stands, as one text from every working folder. Nobody's name or password is in it."""
    url = storage_url(config)
    file = file_of(url)
    if file is None:
        parsed = sqlalchemy.engine.make_url(url)
        bare = sqlalchemy.engine.URL.create(
            parsed.get_backend_name(), host=parsed.host, port=parsed.port, database=parsed.database
        )
        return bare.render_as_string()
    if os.path.realpath(file) == os.path.realpath(config.folder / OWN):
        return OWN  # a folder may be copied or moved
    return f"{JOURNAL if journal_path(url) else 'sqlite:///'}{os.path.realpath(file)}"


def host_of(config: SearchConfig) -> str:
    """This machine, where the ledger is a file outside of the run's folder: another machine may not see it."""
    outside = file_of(storage_url(config)) is not None and place_of(config) != OWN
    return socket.gethostname() if outside else ""


def mark_of(config: SearchConfig) -> Mark | None:
    """What the run's folder tells of its ledger, perhaps a run's of another name; None where none was begun in it."""
    try:
        return Mark(**json.loads((config.folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return older_mark(config)


def older_mark(config: SearchConfig) -> Mark | None:
    """Of a folder without a mark, by the configuration that every start writes there."""
    try:
        begun = load_config(config.folder / "search.yaml")
        return Mark(begun.name, "", place_of(begun.placed(config.folder)))
    except (ConfigError, RunError, sqlalchemy.exc.ArgumentError):
        return None


def check_storage(config: SearchConfig) -> None:
    """Raises RunError where the ledger cannot be kept where run.storage says, or where another one stands. Makes
    nothing there."""
    check_url(storage_url(config))
    if config.run.storage is not None:  # a results folder that cannot be written is told by its own key
        check_file(storage_url(config), config.folder)
    check_belongs(config, lambda _: None)


def check_belongs(config: SearchConfig, say: Callable[[str], None]) -> None:
    """Raises RunError where run.storage names another ledger than the one that the run's folder was made with. Makes
    nothing in the storage. `say` is told where that ledger is gone from its place, and where the folder was another
    run's."""
    found, mark = look(storage_url(config), config.name), mark_of(config)
    if mark is None:
        return
    if mark.run != config.name:
        say(
            f"warning: {config.folder} holds what the run {mark.run!r:.80} found, and {config.name} writes over it; to "
            "go on with that run, give the folder and `name` that name again"
        )
    elif found is None and stands(mark, config) and mark.host in ("", host_of(config)):
        say(f"warning: {mark.storage} holds no run named {config.name} any more; the search begins anew")
    elif found is None or not same(mark, found, config):
        raise other_ledger(config, mark, found)


def stands(mark: Mark, config: SearchConfig) -> bool:
    """Whether run.storage names the place where the folder's ledger stood."""
    return mark.storage == place_of(config)


def same(mark: Mark, found: Held, config: SearchConfig) -> bool:
    """Whether a ledger is the folder's. One without an id, perhaps restored from before there were any, is that where
    it stands in its place or was begun: its configuration is compared when it is opened."""
    return mark.id in ("", found.id) or (not found.id and (found.begun or stands(mark, config)))


def look(url: str, name: str) -> Held | None:
    """What stands under the run's name; None: the storage holds no such run. Raises RunError."""
    try:
        ledger = Ledger(url, name, must_exist=True)
    except NoRun:
        return None
    try:
        return Held(str(ledger.attribute(ID) or ""), ledger.attribute(CONFIGURATION) is not None)
    finally:
        ledger.close()


def other_ledger(config: SearchConfig, mark: Mark, found: Held | None) -> RunError:
    held, made = "no run" if found is None else "another run", f"while {config.folder} was made with the ledger"
    if not stands(mark, config):
        back = "null" if mark.storage == OWN else mark.storage
        told = f"{made} {mark.storage}; put run.storage back ({back}), choose another name or run.output, or move the "
        told += 'ledger first (docs/running.md, "Storage")'
    else:
        there = "that stood there before" if mark.host in ("", host_of(config)) else f"there on {mark.host}"
        todo = "begin anew" if found is None else "go on with the ledger that stands there"
        told = f"{made} {there}; put that one back, or remove {config.folder / MARK} to {todo}"
    return RunError(f"run.storage ({hidden(storage_url(config))}): holds {held} named {config.name}, {told}")


def mark(ledger: Ledger, config: SearchConfig) -> None:
    """Write into ledger and folder that they belong together. Raises RunError."""
    identity = ledger.attribute(ID)
    made = Mark(config.name, str(identity or uuid.uuid4().hex), place_of(config), host_of(config))
    if mark_of(config) != made:
        write_json(config.folder / MARK, asdict(made))
    if not identity:  # last: a ledger in its place that has no id yet is taken, one with another id is not
        ledger.set_attribute(ID, made.id)
