"""A run's log: a JSON object a line, whatever happened to the line before, of bounded length and without secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evolve.credentials import secrets_of
from evolve.errors import RunError
from evolve.trial import Failure, Trial
from evolve.watching.run_log import LONGEST, RunLog, line_of, trial_fields


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def trial(number: int, **changes: Any) -> Trial:
    given = {"value": 0.5, "standard_error": 0.01, "documents": 100, "seconds": {"merge": 0.12345, "total": 1.5}}
    return Trial(number, 2, (0.5,) * 2000, "d" * 64, origin="search", **{**given, **changes})


def test_every_start_appends_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for start in range(2):
        log = RunLog(path)
        log.hear("start", {"workers": start})
        log.trial(trial(start), 0.7, new=True)
        log.trial(trial(9), 0.7, new=False)  # stands there from an earlier start
        log.close()
        log.hear("said", {"text": "too late"})
    told = lines(path)
    assert [each["event"] for each in told] == ["start", "trial"] * 2
    assert told[1]["seconds"] == {"merge": 0.123, "total": 1.5}
    assert (told[1]["id"], told[1]["best"], told[1]["digest"]) == (0, 0.7, "d" * 16)
    assert told[0]["time"].endswith("Z")
    assert told == sorted(told, key=lambda each: each["time"])


@pytest.mark.parametrize("torn", [b'{"time": "2026-01-01T00', b"\xff\xfe", b" "])
def test_a_torn_line_harms_no_other(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"event": "start"}\n' + torn)
    log = RunLog(path)
    log.hear("start", {})
    log.close()
    first, broken, second = path.read_bytes().splitlines()
    assert (json.loads(first)["event"], broken, json.loads(second)["event"]) == ("start", torn, "start")


def test_a_line_that_did_not_fit_on_the_disk_harms_no_other() -> None:
    """Linux keeps a device that is always full."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    log = RunLog(full)
    log.hear("start", {})  # raises nothing
    log.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "x" * 10**6},
        {"point": [0.123456789] * 2000, "reason": "short"},
        {"text": "\N{GRINNING FACE}" * 10**4},
        {f"key {number}": "y" * 50 for number in range(1000)},
        {"worst": float("nan"), "best": float("inf"), "reason": "\ud800 \n \u2028"},
        {"event": "a lie", "time": 0},
    ],
    ids=["text", "list", "wide", "many", "odd", "names"],
)
def test_lines_are_json_and_bounded(fields: dict[str, Any]) -> None:
    line = line_of("decision", fields, (), 0.5)
    assert len(line) <= LONGEST
    assert line.count(b"\n") == 1
    told = json.loads(line)
    assert (told["time"], told["event"]) == ("1970-01-01T00:00:00.500Z", "decision")
    missing = [name for name in fields if name not in told]
    assert bool(missing) == ("left_out" in told) or "event" in fields


def test_a_trial_of_many_genes_and_tasks_is_a_short_line() -> None:
    much = trial(3, tasks={f"task {number}": 0.5 for number in range(1000)}, failure=Failure("error", "z" * 10**5))
    told = json.loads(line_of("trial", trial_fields(much), (), 1.0))
    assert "left_out" not in told
    assert told["failure"]["kind"] == "error"


def test_secrets_are_never_written(tmp_path: Path) -> None:
    environment = {"HF_TOKEN": "hf_abcdefgh", "MY_KEY": "short", "HOME": "/somebody", "WANDB_API_KEY": "0" * 40}
    secrets = secrets_of("postgresql://me:p%40ss%2Fword@db/runs?sslpassword=keypass", environment)
    assert {"p%40ss%2Fword", "p@ss/word", "keypass", "hf_abcdefgh", "0" * 40} <= set(secrets)
    assert not set(secrets) & {"short", "/somebody"}
    log = RunLog(tmp_path / "log.jsonl", secrets)
    log.hear("failed", {"message": "p@ss/word, p%40ss%2Fword", "more": {"keypass": ["hf_abcdefgh"]}})
    log.close()
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert not [each for each in secrets if each in text]
    assert "***" in text


@pytest.mark.parametrize("storage", [None, "sqlite:///x.db", "postgresql://db/runs", "postgresql://me@db:5432/runs"])
def test_where_there_is_no_password_nothing_is_hidden(storage: str | None) -> None:
    assert secrets_of(storage, {}) == ()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "log.jsonl")
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be written"):
        RunLog(tmp_path / "log.jsonl")
