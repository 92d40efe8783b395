"""`evolve status` of a folder that holds runs: a line for each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolve.errors import EvolveError
from evolve.preparation.belonging import MARK, OWN
from evolve.watching.run_state import State, as_data

Look = Callable[[Path], State]


def runs_in(folder: Path) -> list[Path]:
    """The runs' folders in it, by name; none where it is a run itself."""
    if is_run(folder):
        return []
    try:
        return sorted(each for each in folder.iterdir() if is_run(each))
    except OSError:  # no folder, or one that cannot be looked into: whoever reads a run there says so
        return []


def is_run(folder: Path) -> bool:
    """Whether a search was begun there; a ledger.json alone may be anybody's."""
    there = [os.path.isfile(folder / name) for name in ("search.yaml", MARK, OWN)]  # it raises nothing
    return there[0] and any(there[1:])


def listed(runs: list[Path], look: Look) -> list[str]:
    """A line a run: its folder, how far it is, its best candidate and whether anybody is at work."""
    rows = [(each.name, *told(seen(each, look))) for each in runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(part.ljust(width) for part, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def listed_data(runs: list[Path], look: Look) -> list[dict[str, Any]]:
    """The same for machines: what `evolve status --json` says of each, or why it cannot be read."""
    states = [(each, seen(each, look)) for each in runs]
    return [
        as_data(state) if isinstance(state, State) else {"folder": str(each), "error": str(state)}
        for each, state in states
    ]


def seen(run: Path, look: Look) -> State | EvolveError:
    """Where a run stands, or why that cannot be read."""
    try:
        return look(run)
    except EvolveError as error:
        return error


def told(state: State | EvolveError) -> tuple[str, str, str]:
    if not isinstance(state, State):
        return "", "", f"cannot be read: {state}"
    best = "" if state.best is None else f"best {state.figures.trial(state.best)}"
    return f"{len(state.trials)} of {state.config.search.trials} candidates", best, standing(state)


def standing(state: State) -> str:
    if state.holder is not None:
        return f"at work: {state.holder}"
    return "finished" if state.over and state.ended else "stopped; `evolve run` goes on"
