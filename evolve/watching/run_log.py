"""results/<name>/log.jsonl: what happened in a run, a JSON object a line, over all of its starts.

The ledger is the truth and is what a run goes on from; nothing reads this file back. A line is written whole and at
once, so whoever follows it (`tail -f`) sees what was until now; after a kill its last line may be torn, and the next
start begins a line of its own.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from evolve.errors import RunError
from evolve.trial import Trial
from evolve.watching.progress import Outcome

NAME = "log.jsonl"
LONGEST = 2000  # bytes of a line; fields that find no room are named in its `left_out`
SERIES = 10  # numbers of a list that is written; a longer one is left out as well
TEXT = 1000  # letters of a text
HIDDEN = "***"


class RunLog:
    """The file at `path`, appended to. `secrets`: texts that are never written (see `secrets_of`). Raises RunError."""

    def __init__(self, path: Path, secrets: Sequence[str] = ()) -> None:
        self._secrets = secrets
        self._lock = threading.Lock()  # trackers tell of their troubles from threads of their own
        try:
            self._torn = is_torn(path)
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written ({error.strerror or error}); make it writable or move it away"
            ) from error

    def hear(self, event: str, fields: Mapping[str, Any]) -> None:
        """Append a line. A disk that is full costs the line, not the search, whose ledger says so."""
        line = line_of(event, fields, self._secrets, time.time())
        with self._lock:
            if not self._file.closed:
                self._write(b"\n" * self._torn + line)

    def trial(self, trial: Trial, best: float | None, *, new: bool) -> None:
        """Append a line for a new trial; those of earlier starts stand there."""
        if new:
            self.hear("trial", {**trial_fields(trial), "best": best})

    def close(self, outcome: Outcome = "finished") -> None:
        """How a start ended is an event that was heard before."""
        with self._lock:
            self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            self._torn = self._file.write(data) != len(data)
        except OSError:
            self._torn = True


def is_torn(path: Path) -> bool:
    """Whether a file ends in the midst of a line."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def trial_fields(trial: Trial) -> dict[str, Any]:
    """What the log tells of a trial: no point and no metrics by task, which grow with genes and tasks."""
    failure = trial.failure
    return {
        "id": trial.id,
        "generation": trial.generation,
        "origin": trial.origin,
        "value": trial.value,
        "standard_error": trial.standard_error,
        "documents": trial.documents,
        "whole": trial.whole,
        "digest": trial.digest[:16],
        "failure": None if failure is None else {"kind": failure.kind, "message": failure.message[:TEXT]},
        "seconds": {phase: round(seconds, 3) for phase, seconds in trial.seconds.items()},
    }


def line_of(event: str, fields: Mapping[str, Any], secrets: Sequence[str], at: float) -> bytes:
    """The line with its newline, in at most `LONGEST` bytes."""
    told: dict[str, Any] = {"time": stamp(at), "event": event}
    room, left_out = LONGEST - 200, list[str]()  # what time, event and `left_out` take
    for name, value in fields.items():
        shown = None if is_series(value) else plain(value, secrets)
        needed = len(encoded({name: shown}))
        if needed <= room and name not in told and not is_series(value):
            told[name], room = shown, room - needed
        else:
            left_out.append(name)
    if left_out:
        told["left_out"] = ", ".join(left_out)[:100]
    return encoded(told) + b"\n"


def is_series(value: Any) -> bool:
    """Whether it is a point, a gradient or the like, which the ledger holds."""
    return isinstance(value, (list, tuple)) and len(value) > SERIES and isinstance(value[0], float)


def stamp(at: float) -> str:
    """Seconds since the epoch as UTC, in milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"


def encoded(data: Any) -> bytes:
    return json.dumps(data, allow_nan=False).encode("ascii")  # some readers take U+2028 for the end of a line


def plain(value: Any, secrets: Sequence[str]) -> Any:
    """The value as JSON has it, without secrets: no NaN, no long texts."""
    if isinstance(value, Mapping):
        return {str(plain(str(key), secrets)): plain(each, secrets) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, secrets) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text if len(text) <= TEXT else f"{text[:TEXT]} ..."
