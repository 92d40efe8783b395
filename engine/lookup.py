"""Finding a row of a table by name, with an error that helps when there is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from engine.errors import UnknownName, shown

T = TypeVar("T")

_LONGEST = 200
"""Letters of a name that are compared: the time grows with their square."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'ties'?` for the known name most like `name`, or an empty string."""
    close = difflib.get_close_matches(str(name)[:_LONGEST], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`.

    Raises UnknownName: `unknown merge method 'tise'; did you mean 'ties'? (known: ...)`.
    """
    if name in table:
        return table[name]
    known = ", ".join(sorted(table))
    raise UnknownName(f"unknown {what} {shown(name)}{nearest(name, table)} (known: {known})")
