"""What a person sees while a run works: lines that stay, and on a terminal a bar below them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evolve.trial import Trial

EVERY = 5.0  # seconds between two lines about trials where there is no terminal


class ProgressLog:
    """A context; in a terminal it draws a bar, elsewhere it prints a line every few seconds."""

    def __init__(self) -> None:
        self._console = Console(stderr=False, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("", visible=False)
        self._done, self._total, self._name = 0, 0, ""
        self._scored: list[Trial] = []  # those that were scored whole
        self._value: Callable[[Trial], float] = lambda trial: trial.value or 0.0
        self._failed, self._shown = 0, 0.0
        self._shown_as: Callable[[Trial], str] = lambda trial: f"{trial.value:.4f}"

    def __enter__(self) -> ProgressLog:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` steps."""
        self._name, self._total, self._done, self._shown = name, total, 0, 0.0
        self._bar.reset(self._task, description=name, total=total, visible=True)

    def step(self, what: str = "") -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done, description=f"{self._name}{what and f': {what}'}")
        if self._bar.disable and (time.monotonic() - self._shown > EVERY or self._done == self._total):
            self._shown = time.monotonic()
            self.say(f"{self._name}: {self._done} of {self._total}{what and f', {what}'}")

    def note(self, text: str) -> None:
        """What is being done beside the stage's steps: in the bar, or every few seconds a line."""
        self._bar.update(self._task, description=f"{self._name}: {text}")
        if self._bar.disable and time.monotonic() - self._shown > EVERY:
            self._shown = time.monotonic()
            self.say(f"{self._name}: {text}")

    def show_trials(
        self, shown_as: Callable[[Trial], str], value: Callable[[Trial], float], recorded: Iterable[Trial] = ()
    ) -> None:
        """How a scored trial is put in words from now on, by which value the best is the best, asked each time since
        tasks' weights may change, and the trials that an earlier start made."""
        self._shown_as, self._value = shown_as, value
        for trial in recorded:
            self._count(trial)

    def replayed(self, trials: int, moved: int) -> None:
        if moved:
            self.say(
                f"note: {moved} recorded candidates differ from what this machine would have asked; "
                "the recorded ones are kept"
            )
        elif trials:
            self.say(f"going on after {trials} recorded candidates")
            self._done = trials
            self._bar.update(self._task, completed=trials)

    def finished(self, trial: Trial) -> None:
        self._count(trial)
        if trial.failure:
            self.say(f"candidate {trial.id} failed ({trial.failure.kind}): {trial.failure.message}")
        best = max(self._scored, key=self._value, default=None)
        shown = "" if best is None else f"best so far {self._shown_as(best)} (search documents)"
        self.step(shown + (f", {self._failed} failed" if self._failed else ""))

    def _count(self, trial: Trial) -> None:
        self._failed += trial.failure is not None
        if trial.failure is None and trial.whole:
            self._scored.append(trial)
