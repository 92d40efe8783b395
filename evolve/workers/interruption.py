"""Ctrl-C once: what is being evaluated is finished and recorded, nothing new begins. Twice: everything stops now.

A signal waits only while there is something worth waiting for, which the executors say; elsewhere it stops at once.
SIGTERM is a first Ctrl-C with a bound: clusters kill what has not ended after some 30 seconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

GRACE = 20  # seconds that a SIGTERM leaves to what is being evaluated
WAITING = "\nstopping once the candidates at work are finished; once more stops now\n"


class Interruption:
    """What was asked for by signals, and whether somebody is at work who may finish first."""

    def __init__(self) -> None:
        self.asked = False
        self._at_work = 0

    def waits(self, number: int) -> bool:
        """Whether this signal is to be obeyed when what runs is finished; else now."""
        if self.asked or not self._at_work:
            return False
        self.asked = True
        if number == signal.SIGTERM:
            signal.alarm(GRACE)  # whose signal is the second one
        os.write(2, WAITING.encode())  # not `print`, which cannot be entered twice
        return True

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """The first signal is obeyed after what is done within, by a KeyboardInterrupt; one from before, at once."""
        if self.asked:
            raise KeyboardInterrupt
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
        if self.asked:
            raise KeyboardInterrupt


INTERRUPTION = Interruption()  # of this process, as its signals are
