"""What is said while workers are awaited: that they load, or have no place on the cluster, and when that is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from evolve.workers.sizing import Workers, counted

MOMENT = 3.0  # seconds that nobody need be told of
LONG = 10.0  # seconds without a place, after which that is said; and between two lines on who has started since
LOADING = "the workers are loading the model"

Resources = Mapping[str, float]


class Awaiting:
    """Told now and then how many workers have no place, and how many can work."""

    def __init__(self, say: Callable[[str], None], room: Callable[[int], str]) -> None:
        """`room`: what is to be said of so many workers that have no place."""
        self._say, self._room = say, room
        self._begun = self._told = time.monotonic()
        self._waiting: float | None = None  # since when some have no place
        self._without = 0  # a place, of those that were told of
        self._loading = False  # whether that was said

    def look(self, placeless: int, able: int) -> None:
        """`placeless`: workers without a place; `able`: those that can work, or are at work."""
        now = time.monotonic()
        if not (placeless or able or self._loading) and now - self._begun > MOMENT:
            self._loading = True
            self._say(LOADING)
        if self._without:
            self._follow(placeless, able, now)
        elif not placeless:
            self._waiting = None
        elif self._waiting is None:
            self._waiting = now
        elif now - self._waiting > LONG:
            self._without, self._told, self._loading = placeless, now, True
            self._say(self._room(placeless))

    def _follow(self, placeless: int, able: int, now: float) -> None:
        """Those that were told to have no place, once some of them have one and work."""
        over = not placeless
        if able and placeless < self._without and (over or now - self._told > LONG):
            still = "" if over else f"; {placeless} still {'waits' if placeless == 1 else 'wait'} for room"
            self._say(f"{counted(able, 'worker')} can work now{still}")
            self._without, self._told = placeless, now
            self._waiting = now if placeless else None


def without_room(count: int, kinds: Sequence[Workers], there: Resources, free: Resources) -> str:
    """What is to be said of `count` workers without a place: what each asks for, and what of that is taken."""
    kind = kinds[0]
    asked, taken = [counted(kind.threads, "core")], [taken_of("CPU", "cores", there, free)]
    if kind.gpus:
        asked.append(f"{kind.gpus:g} GPU")
        taken.append(taken_of("GPU", "GPUs", there, free))
    asked.append(f"{kind.memory / 2**30:.1f} GiB")
    taken.append(taken_of("memory", "GiB", there, free, 2**30))
    return (
        f"waiting for room: {counted(count, 'worker')} of {', '.join(asked)} each; on the cluster "
        f"{', '.join(taken)} are taken (`ray status`)"
    )


def taken_of(resource: str, unit: str, there: Resources, free: Resources, size: float = 1.0) -> str:
    total = there.get(resource, 0.0)
    digits = 1 if size > 1 else 0
    return f"{(total - free.get(resource, 0.0)) / size:.{digits}f} of {total / size:.{digits}f} {unit}"
