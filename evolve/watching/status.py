"""`evolve status`: where a run stands, once or again and again; or all runs in a folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from evolve.config.search_yaml import SearchConfig, load_config
from evolve.errors import RunError
from evolve.preparation.belonging import OWN, storage_url
from evolve.preparation.guard import holder_of, load_run
from evolve.storage.lease import PATIENCE
from evolve.storage.ledger import Ledger
from evolve.watching.listing import listed, listed_data, runs_in
from evolve.watching.run_state import State, as_data, lines, state_of


def status(place: Path, as_json: bool = False, every: float | None = None) -> None:
    """Print where the run stands, in words or as JSON; with `every`, again after so many seconds until it is over. Of a
    folder that holds runs, a line for each. Raises RunError."""
    runs = runs_in(place)
    if runs and every is not None:
        raise RunError(f"{place}: holds runs, and --watch looks at one; give its folder, such as {runs[0]}")
    if runs:
        print(json.dumps(listed_data(runs, glance)) if as_json else printable("\n".join(listed(runs, glance))))
        return
    watch, shown = watch_of(place), text_of_data if as_json else text
    if every is None:
        print(shown(watch.look()))
    else:
        with suppress(KeyboardInterrupt):  # how one stops looking
            follow(watch, shown, every)


def watch_of(place: Path) -> Watch:
    config = config_at(place)
    return Watch(config, Ledger(storage_url(config), config.name, must_exist=True))


def glance(place: Path) -> State:
    return watch_of(place).look()


def config_at(place: Path) -> SearchConfig:
    """Of a run's folder; or of a search.yaml, where the run's folder cannot be seen from here but its database can."""
    if not place.is_file():
        return load_run(place)
    config = load_config(place)
    if config.run.storage:
        return config
    return load_run(place.parent if (place.parent / OWN).is_file() else config.folder)


def text(state: State) -> str:
    return printable("\n".join(lines(state)))


def printable(told: str) -> str:
    """Without what would steer a terminal, in case somebody else's ledger holds that."""
    return "\n".join(
        "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
        for line in told.split("\n")
    )


def text_of_data(state: State) -> str:
    return json.dumps(as_data(state))


class Watch:
    """Looks at a run, and remembers since when a driver's heartbeat has stood still."""

    def __init__(self, config: SearchConfig, ledger: Ledger) -> None:
        self._config, self._ledger = config, ledger
        self._seen: object = None
        self._since = time.monotonic()

    def look(self) -> State:
        holder = holder_of(self._config)
        if holder != self._seen or holder is None:
            self._seen, self._since = holder, time.monotonic()
        silence = time.monotonic() - self._since
        return state_of(self._config, self._ledger, holder, time.time(), silence=silence if silence > PATIENCE else 0.0)


def follow(watch: Watch, shown: Callable[[State], str], every: float) -> None:
    """Show the state every so many seconds: in its place on a terminal, else one after the other."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    first = watch.look()
    if not sys.stdout.isatty():
        for state in looks(watch, first, every):
            print(shown(state), flush=True)
        return
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        for state in looks(watch, first, every):
            live.update(Text(shown(state)), refresh=True)


def looks(watch: Watch, state: State, every: float) -> Iterator[State]:
    """What was seen, then what is seen after every pause; ends when the run is over."""
    yield state
    while not state.over:
        time.sleep(every)
        try:
            state = watch.look()
        except RunError as error:  # a database that is away for a while
            print(error, file=sys.stderr)
            continue
        yield state
