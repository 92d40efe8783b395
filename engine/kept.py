"""What does not change between the candidates of one search, computed once: adapted weights and statistics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from engine.job import Input
from engine.methods.method import Array

T = TypeVar("T")


class Kept:
    """A store that lives as long as its worker. Threads may use it; what two compute at once, both keep the first of.

    `room` bounds the bytes of weights that are held; statistics are small and are not counted.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._values: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, what: str, sources: tuple[Input, ...], make: Callable[[], T]) -> T:
        """Return what `make` returned when it was first asked for these sources."""
        if any(source.rows is not None for source in sources):  # vocabularies are put together anew by every plan
            return make()
        key = (what, *((source.checkpoint, source.name) for source in sources))
        with self._lock:
            if key in self._values:
                found: T = self._values[key]
                return found
        made = make()
        with self._lock:
            first: T = self._values.setdefault(key, made)
        return first

    def words(self, source: Input, make: Callable[[], Array]) -> Array | None:
        """Return a source's words, or None where there is no room for them."""
        size = source.float_bytes
        with self._lock:
            if ("words", (source.checkpoint, source.name)) not in self._values:
                if size > self._room:
                    return None
                self._room -= size
        return self.get("words", (source,), make)
