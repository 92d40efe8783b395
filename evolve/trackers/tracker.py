"""What a tracker is: whoever shows a run in an experiment tracker, through that tracker's own library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evolve.watching.progress import Outcome


@dataclass(frozen=True)
class Opening:
    """What a tracker begins with. `folder`: where it may keep files; `run`: what an earlier start's tracker called this
    run, None where there was none; `parameters`: the configuration by dotted key, without credentials."""

    name: str
    folder: Path
    run: str | None
    parameters: Mapping[str, str]


class Tracker(Protocol):
    """Used from one thread. Whatever it raises ends it and is told once; the search goes on."""

    @property
    def run(self) -> str:
        """What the tracker calls this run, with which a later start goes on."""

    def log(self, step: int, metrics: Mapping[str, float], at: float) -> None:
        """Show metrics. `step`: the candidate's id; `at`: seconds since the epoch."""

    def sum_up(self, headline: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Show what came of the run: `files` are texts."""

    def close(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class Row:
    """`library`: the module that has to be importable, which the extra of the tracker's name installs; `lacking`: what
    else is in the way of `open`, "" where nothing is, asked once the library is there."""

    open: Callable[[Opening], Tracker]
    library: str
    doc: str
    lacking: Callable[[], str] = lambda: ""
