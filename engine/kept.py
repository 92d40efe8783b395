"""What does not change between the candidates of one search, computed once: adapted weights and statistics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from engine.job import Input

T = TypeVar("T")


class Kept:
    """A store that lives as long as its worker. Threads may use it; what two compute at once, both keep the first of.

    `room` bounds the bytes of weights that are held; statistics are small and are not counted.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._values: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, what: str, sources: tuple[Input | None, ...], make: Callable[[], T]) -> T:
        """Return what `make` returned when it was first asked for these sources."""
        if any(source is not None and source.rows is not None for source in sources):
            return make()  # every plan puts vocabularies together anew
        key = (what, *[source and (source.checkpoint, source.name) for source in sources])
        found: T | None = self._values.get(key)
        if found is not None:
            return found
        made = make()
        with self._lock:
            first: T = self._values.setdefault(key, made)
        return first

    def holds(self, source: Input) -> bool:
        """Return whether a source's weights are held: as they stand in a file, or as float32 where there is room."""
        if source.rows is not None or source.mapped:
            return source.mapped
        what = ("room", source.checkpoint, source.name)
        with self._lock:
            if what not in self._values:
                fits = source.float_bytes <= self._room
                self._room -= source.float_bytes if fits else 0
                self._values[what] = fits
            return bool(self._values[what])
