"""Ctrl-C once: what is being evaluated is finished and recorded, nothing new begins. Twice: everything stops now.

A signal waits only while there is something worth waiting for, which the executors say; elsewhere it stops at once.
SIGTERM is a first Ctrl-C with a bound: clusters kill what has not ended after some 30 seconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 20  # seconds that a SIGTERM leaves to what is being evaluated
WAITING = "\nstopping once {} finished; once more stops now\n"


class Interruption:
    """What was asked for by signals, and whether somebody is at work who may finish first."""

    def __init__(self) -> None:
        self.asked = False
        self._at_work: list[Callable[[], int]] = []

    def waits(self, number: int) -> bool:
        """Whether this signal is to be obeyed when what runs is finished; else now."""
        candidates = sum(count() for count in self._at_work)
        if self.asked or not candidates:
            return False
        self.asked = True
        if number == signal.SIGTERM:
            signal.alarm(GRACE)  # whose signal is the second one
        what = "1 candidate that is at work is" if candidates == 1 else f"{candidates} candidates that are at work are"
        os.write(2, WAITING.format(what).encode())  # not `print`, which cannot be entered twice
        return True

    @contextmanager
    def finishing(self, at_work: Callable[[], int] = lambda: 1) -> Iterator[None]:
        """The first signal is obeyed after what is done within, by a KeyboardInterrupt; one from before, at once.

        `at_work`: how many candidates are; where there are none, a signal does not wait.
        """
        if self.asked:
            raise KeyboardInterrupt
        self._at_work.append(at_work)
        try:
            yield
        finally:
            self._at_work.remove(at_work)
        if self.asked:
            raise KeyboardInterrupt


INTERRUPTION = Interruption()  # of this process, as its signals are
