"""What a person sees while a run works: lines that stay, and on a terminal a bar below them. Whoever else watches the
run (its log, trackers) listens here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evolve.trial import Trial

EVERY = 5.0  # seconds between two lines about trials where there is no terminal
WARNING = "warning: "  # what begins so is a warning
Outcome = Literal["finished", "interrupted", "failed"]  # of a start of a run


class Listener(Protocol):
    """Who is told what happens in a run. `trial`: with the best value so far, of the objective; `new`: made by this
    start, not by an earlier one."""

    def hear(self, event: str, fields: Mapping[str, Any]) -> None: ...

    def trial(self, trial: Trial, best: float | None, *, new: bool) -> None: ...

    def close(self, outcome: Outcome) -> None: ...


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
        self._best = Best(lambda trial: trial.value or 0.0, dict)
        self._failed, self._shown = 0, 0.0
        self._shown_as: Callable[[Trial], str] = lambda trial: f"{trial.value:.4f}"
        self._listeners: list[Listener] = []
        self._unheard: list[tuple[str, Mapping[str, Any]]] = []  # before there was anybody to listen

    def __enter__(self) -> ProgressLog:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def listen(self, listener: Listener) -> None:
        """The first one hears what was told before it came."""
        self._listeners.append(listener)
        unheard, self._unheard = self._unheard, []
        for event, fields in unheard:
            listener.hear(event, fields)

    def dismiss(self, outcome: Outcome) -> None:
        """Nobody listens any more. The first one to come leaves last, and hears how the others left."""
        while self._listeners:
            self._listeners[-1].close(outcome)
            self._listeners.pop()

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """To whoever listens; nothing is shown."""
        if not self._listeners:
            self._unheard.append((event, fields))
        for listener in self._listeners:
            listener.hear(event, fields)

    def say(self, text: str) -> None:
        self._print(text)
        if text.startswith(WARNING):
            self.tell("warning", {"text": text.removeprefix(WARNING)})
        else:
            self.tell("said", {"text": text.strip()})

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` steps."""
        self._name, self._total, self._done, self._shown = name, total, 0, 0.0
        self._bar.reset(self._task, description=name, total=total, visible=True)
        self.tell("stage", {"name": name, "steps": total})

    def step(self, what: str = "") -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done, description=f"{self._name}{what and f': {what}'}")
        if self._bar.disable and (time.monotonic() - self._shown > EVERY or self._done == self._total):
            self._shown = time.monotonic()
            self._print(f"{self._name}: {self._done} of {self._total}{what and f', {what}'}")

    def note(self, text: str) -> None:
        """What is being done beside the stage's steps: in the bar, or every few seconds a line."""
        self._bar.update(self._task, description=f"{self._name}: {text}")
        if self._bar.disable and time.monotonic() - self._shown > EVERY:
            self._shown = time.monotonic()
            self._print(f"{self._name}: {text}")

    def show_trials(
        self,
        shown_as: Callable[[Trial], str],
        value: Callable[[Trial], float],
        recorded: Iterable[Trial] = (),
        weights: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """How a scored trial is put in words from now on, by which value the best is the best, and the trials that an
        earlier start made. `weights`: what `value` goes by, where that may change."""
        self._shown_as, self._best = shown_as, Best(value, weights)
        for trial in sorted(recorded, key=lambda each: (each.finished, each.id)):
            self._count(trial, new=False)

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
        self._count(trial, new=True)
        if trial.failure:
            self._print(f"candidate {trial.id} failed ({trial.failure.kind}): {trial.failure.message}")
        best = self._best.trial
        shown = "" if best is None else f"best so far {self._shown_as(best)} (search documents)"
        failed = f"{self._failed} failed" if self._failed else ""
        self.step(", ".join(part for part in (shown, failed) if part))

    def _count(self, trial: Trial, *, new: bool) -> None:
        self._failed += trial.failure is not None
        self._best.meet(trial)
        for listener in self._listeners:
            listener.trial(trial, self._best.value, new=new)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False)


class Best:
    """The best of the trials met, of those that were scored whole. Tasks' weights may change on the way: then all are
    compared anew, and only then, so that the last of very many trials costs no more than the first."""

    def __init__(self, value: Callable[[Trial], float], weights: Callable[[], Mapping[str, float]]) -> None:
        self._value_of, self._weights = value, weights
        self._met: list[Trial] = []
        self._by: dict[str, float] = {}
        self.trial: Trial | None = None
        self.value: float | None = None

    def meet(self, trial: Trial) -> None:
        weights = dict(self._weights())
        if weights != self._by:
            self._by, self.trial, self.value = weights, None, None
            for each in self._met:
                self._compare(each)
        if trial.failure is None and trial.whole:
            self._met.append(trial)
            self._compare(trial)

    def _compare(self, trial: Trial) -> None:
        value = self._value_of(trial)
        if self.value is None or value > self.value:
            self.trial, self.value = trial, value
