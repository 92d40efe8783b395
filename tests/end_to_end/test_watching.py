"""A real run is watched while it works, and leaves its log and its tracker's files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, Config, command, environment, evolve

TRACKERS = ["tensorboard"] if find_spec("tensorboard") else []  # the others want more room; see test_tracking.py


@pytest.mark.slow
def test_a_run_is_watched(config: Config, search_file: Callable[[Config], Path]) -> None:
    config["search"]["trials"] = 18
    config["run"]["trackers"] = TRACKERS
    path = search_file(config)
    folder = Path(config["run"]["output"]) / config["name"]
    with subprocess.Popen(
        command("run", path), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        while "one worker" not in (line := driver.stdout.readline()):
            assert line, "the run ended early"
        watched = evolve("status", folder, "--json", "--watch", 0.5)
        driver.communicate()
    assert driver.returncode == 0
    assert watched.returncode == 0, watched.stderr
    states = list(map(json.loads, watched.stdout.splitlines()))
    assert states[0]["driver"]["process"] == driver.pid
    assert states[0]["placement"] == [{"node": "this process", "workers": 1, "threads": 1, "gpus": 0}]
    assert [state["trials"] for state in states] == sorted(state["trials"] for state in states)
    assert states[-1]["finished"]
    assert any(state["candidates_an_hour"] and 0 < state["utilisation"] <= 1 for state in states)

    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    events = [each["event"] for each in log]
    assert (events[0], events[-1]) == ("start", "end")
    trials = [each for each in log if each["event"] == "trial"]
    assert sorted(each["id"] for each in trials) == list(range(18))
    assert trials[-1]["best"] == max(each["value"] for each in trials if each["whole"])
    assert {"search ended", "report opened"} <= {each.get("kind") for each in log}
    (result,) = [each for each in log if each["event"] == "result"]
    assert result["headline"] == states[-1]["headline"]

    if TRACKERS:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        shown = EventAccumulator(str(folder / "trackers" / "tensorboard"))
        shown.Reload()
        assert {each.step: each.value for each in shown.Scalars("value")} == pytest.approx(
            {each["id"]: each["value"] for each in trials}
        )
        assert shown.Scalars("report/mean")[0].value == pytest.approx(result["metrics"]["report/mean"])
