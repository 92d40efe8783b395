"""Which ledger a run's folder belongs to: an id that stands in both, and where that ledger stood.

Another storage of the same run may be the same ledger at another host, or restored from a copy; another ledger would
begin a second history in the folder.
"""

from __future__ import annotations

import json
import os
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


@dataclass(frozen=True)
class Mark:
    """What a folder tells of its ledger: the run's name there, the ledger's `id` ("": not known), and where it stood,
    without passwords."""

    run: str
    id: str
    storage: str


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


def mark_of(config: SearchConfig) -> Mark | None:
    """What the run's folder tells of its ledger; None where no run of this name was begun in it."""
    mark: Mark | None
    try:
        mark = Mark(**json.loads((config.folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        mark = older_mark(config)
    return mark if mark is not None and mark.run == config.name else None


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
    check_file(storage_url(config), config.folder)
    check_belongs(config, lambda _: None)


def check_belongs(config: SearchConfig, say: Callable[[str], None]) -> None:
    """Raises RunError where run.storage names another ledger than the one that the run's folder was made with. Makes
    nothing in the storage. `say` is told where that ledger is gone from its place."""
    found, mark = look(storage_url(config), config.name), mark_of(config)
    if mark is None:
        return
    there = mark.storage == place_of(config)
    if found is None and there:
        say(f"warning: {mark.storage} holds no run named {config.name} any more; the search begins anew")
    elif found is None or not (mark.id in ("", found) or (there and not found)):
        raise other_ledger(config, mark, "no run" if found is None else "another run")


def look(url: str, name: str) -> str | None:
    """The id of the run's ledger, "" of one that has none, None: the storage holds no such run. Raises RunError."""
    try:
        ledger = Ledger(url, name, must_exist=True)
    except NoRun:
        return None
    try:
        return str(ledger.attribute(ID) or "")
    finally:
        ledger.close()


def other_ledger(config: SearchConfig, mark: Mark, held: str) -> RunError:
    asked, back = hidden(storage_url(config)), "null" if mark.storage == OWN else mark.storage
    return RunError(
        f"run.storage ({asked}): holds {held} named {config.name}, while {config.folder} was made "
        f"with the ledger {mark.storage}; put run.storage back ({back}), choose another name or run.output, or move "
        'the ledger first (docs/running.md, "Storage")'
    )


def mark(ledger: Ledger, config: SearchConfig) -> None:
    """Write into ledger and folder that they belong together. Raises RunError."""
    identity = ledger.attribute(ID)
    if not identity:
        identity = uuid.uuid4().hex
        ledger.set_attribute(ID, identity)
    made = Mark(config.name, identity, place_of(config))
    if mark_of(config) != made:
        write_json(config.folder / MARK, asdict(made))
