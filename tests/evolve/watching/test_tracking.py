"""Trackers show what a run did, go on where an earlier start was, and never cost the search anything."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UnknownName
from evolve.config.search_yaml import SearchConfig
from evolve.errors import RunError
from evolve.trackers import TRACKERS
from evolve.trackers.tracker import Opening, Row
from evolve.trial import Failure, Trial
from evolve.watching import tracking
from evolve.watching.tracking import RESULT, Tracking, check_trackers, metrics_of, parameters_of, trackings

STORAGE = "postgresql://me:verysecret@db/runs"
RESULTS: dict[str, Any] = {
    "headline": "The merge is better.",
    "metrics": {"report/mean": 0.75, "report/gain low": 0.01},
    "files": ["best.yaml", "report.md", "missing.md"],
}
Read = Callable[[Path], dict[str, list[tuple[int, float]]]]  # metric -> (step, value)


def trial(number: int, value: float | None, finished: float) -> Trial:
    failure = Failure("merge", "no") if value is None else None
    tasks = {"a task, of ours": value} if value is not None else {}
    return Trial(number, 0, (0.5,), "d", value, 0.01, 100, tasks, {}, failure, {"total": 2.0}, finished)


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    config = SearchConfig.model_validate(
        {
            "name": "run",
            "models": {"base": "b", "sources": ["s|t"]},
            "score": {"tasks": [{"task": "a task, of ours", "metric": "acc"}]},
            "run": {"output": str(tmp_path), "storage": STORAGE},
        }
    )
    config.folder.mkdir()
    (config.folder / "best.yaml").write_text("merge_method: ties\n", encoding="utf-8")
    (config.folder / "report.md").write_text("# run\n", encoding="utf-8")
    return config


@pytest.fixture(autouse=True)
def nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server of whoever runs the tests hears of it."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


def tensorboard_metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    texts = {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}
    assert {"configuration", "verdict", "best.yaml", "report.md"} <= texts
    return {
        tag: [(each.step, round(each.value, 6)) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def mlflow_metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("merge-evolve")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["verdict"] == RESULTS["headline"]
    assert run.data.params["search.optimizer"] == "cma"
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"best.yaml", "report.md"}
    names = run.data.metrics
    return {
        name: sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, name))
        for name in names
    }


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a file in the format of LevelDB's log, behind a header of 7 bytes."""
    place, whole, block = 7, b"", 32 * 1024
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, part = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # full, or the last one
            yield whole
            whole = b""


def wandb_metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """From the files that `wandb sync` would send."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, list[tuple[int, float]]] = {}
    runs, exits = set(), []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in leveldb_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            runs |= {record.run.run_id} - {""}
            exits += [record.exit.exit_code] if record.HasField("exit") else []
            values = {(each.key or each.nested_key[0]): json.loads(each.value_json) for each in record.history.item}
            for name in values.keys() - {"candidate"}:
                if not name.startswith("_"):
                    found.setdefault(name, []).append((values["candidate"], values[name]))
            for each in record.summary.update:
                key = each.key or each.nested_key[0]
                if key.startswith("report/"):
                    found.setdefault(key, []).append((0, json.loads(each.value_json)))
    assert len(runs) == 1
    assert exits == [130, 0]
    return {name: sorted(set(steps)) for name, steps in found.items()}


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(
    ("name", "read"), [("tensorboard", tensorboard_metrics), ("mlflow", mlflow_metrics), ("wandb", wandb_metrics)]
)
def test_a_run_of_two_starts_is_one_run_with_every_candidate(
    config: SearchConfig, name: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(TRACKERS[name].library)
    monkeypatch.setitem(tracking.PATIENCE, "interrupted", 300.0)  # the first to import a library waits for that
    monkeypatch.setitem(tracking.PATIENCE, "finished", 300.0)
    check_trackers([name])
    said: list[str] = []
    asked = config.model_copy(update={"run": config.run.model_copy(update={"trackers": (name, name)})})
    trials = [trial(0, 0.25, 1000.0), trial(2, None, 1001.0), trial(1, 0.5, 1002.0), trial(3, 0.375, 1003.0)]
    best = [0.25, 0.25, 0.5, 0.5]

    (first,) = trackings(asked, said.append)
    first.trial(trials[0], best[0], new=True)
    first.trial(trials[1], best[1], new=True)
    first.close("interrupted")
    # The third was recorded by a start that was killed before it could tell.
    (second,) = trackings(asked, said.append)
    for number in range(3):
        second.trial(trials[number], best[number], new=False)
    second.trial(trials[3], best[3], new=True)
    second.hear("said", {"text": "nothing for trackers"})
    second.hear(RESULT, RESULTS)
    second.close("finished")

    assert said == []
    folder = config.folder / "trackers" / name
    shown = read(folder)
    task = "task/a task_ of ours" if name == "mlflow" else "task/a task, of ours"
    # What was told last may be told once more: the same value at the same step.
    told = {metric: sorted(set(shown[metric])) for metric in ("value", "best", "failed", task)}
    assert told == {
        "value": [(0, 0.25), (1, 0.5), (3, 0.375)],
        task: [(0, 0.25), (1, 0.5), (3, 0.375)],
        "best": [(0, 0.25), (1, 0.5), (2, 0.25), (3, 0.5)],
        "failed": [(0, 0.0), (1, 0.0), (2, 1.0), (3, 0.0)],
    }
    assert [value for _, value in shown["report/mean"]] == [0.75]
    held = [file for file in config.folder.rglob("*") if file.is_file() and b"verysecret" in file.read_bytes()]
    assert held == []


class Recorder:
    """A tracker that writes down what it is told, after what `before` does."""

    def __init__(self, before: Callable[[int], object] = lambda step: None, run: str = "a") -> None:
        self._before, self.run = before, run
        self.steps: list[int] = []
        self.outcome = ""

    def log(self, step: int, metrics: Mapping[str, float], at: float) -> None:
        self._before(step)
        self.steps.append(step)

    def sum_up(self, headline: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        self.files = [file.name for file in files]

    def close(self, outcome: str) -> None:
        self.outcome = outcome


def started(config: SearchConfig, recorder: Recorder, said: list[str]) -> Tracking:
    return Tracking("mine", Row(lambda opening: recorder, "json", ""), config, said.append)


def raised(step: int) -> None:
    if step == 1:
        raise ConnectionError("no route\nto host")


def test_a_tracker_that_raises_is_warned_of_once_and_left_out(config: SearchConfig) -> None:
    said: list[str] = []
    recorder = Recorder(raised)
    mine = started(config, recorder, said)
    for number in range(5):
        mine.trial(trial(number, 0.5, 1000.0 + number), 0.5, new=True)
    mine.hear(RESULT, RESULTS)
    mine.close("finished")
    assert said == [
        "warning: run.trackers (mine): ConnectionError: no route to host; it is left out until the next start"
    ]
    assert (recorder.steps, recorder.outcome) == ([0], "finished")
    again = Recorder()
    later = started(config, again, said)
    for number in range(5):
        later.trial(trial(number, 0.5, 1000.0 + number), 0.5, new=False)
    later.hear(RESULT, RESULTS)
    later.close("finished")
    assert again.steps == [0, 1, 2, 3, 4]  # what it missed, and the last that it had not
    assert again.files == ["best.yaml", "report.md"]
    assert len(said) == 1


def test_one_that_cannot_be_opened_is_left_out(config: SearchConfig) -> None:
    said: list[str] = []

    def fail(opening: Opening) -> Recorder:
        raise SystemExit("no key")

    mine = Tracking("mine", Row(fail, "json", ""), config, said.append)
    mine.trial(trial(0, 0.5, 1.0), 0.5, new=True)
    mine.close("failed")
    assert said == ["warning: run.trackers (mine): SystemExit: no key; it is left out until the next start"]


def test_a_tracker_that_hangs_holds_nothing_up(config: SearchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.PATIENCE, "finished", 0.1)
    said: list[str] = []
    answers = threading.Event()
    recorder = Recorder(lambda step: answers.wait(60))
    mine = started(config, recorder, said)
    for number in range(1000):
        mine.trial(trial(number, 0.5, 1000.0 + number), 0.5, new=True)
    mine.close("finished")
    assert recorder.steps == []
    assert ["does not answer" in each for each in said] == [True]
    answers.set()
    while recorder.outcome != "finished":
        time.sleep(0.01)
    assert recorder.steps == list(range(1000))


def test_trackers_that_hang_are_waited_for_side_by_side(config: SearchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.PATIENCE, "interrupted", 0.0)
    monkeypatch.setitem(tracking.PATIENCE, "finished", 3600.0)  # what the closing says counts no more
    said: list[str] = []
    answers = threading.Event()
    recorders = [Recorder(lambda step: answers.wait(60)) for _ in range(3)]
    trackers = [started(config, recorder, said) for recorder in recorders]
    for each in trackers:
        each.trial(trial(0, 0.5, 1000.0), 0.5, new=True)
    for each in trackers:
        each.hear("interrupted", {})
    for each in trackers:
        each.close("finished")
    assert len(said) == 3
    answers.set()
    while any(recorder.outcome != "interrupted" for recorder in recorders):
        time.sleep(0.01)


def test_a_run_that_the_tracker_does_not_know_is_told_from_the_beginning(config: SearchConfig) -> None:
    said: list[str] = []
    for name, steps in (("a", [0, 1]), ("a", [1]), ("b", [0, 1])):
        recorder = Recorder(run=name)
        mine = started(config, recorder, said)
        for number in range(2):
            mine.trial(trial(number, 0.5, 1000.0 + number), 0.5, new=False)
        mine.close("finished")
        assert (said, recorder.steps) == ([], steps)
    (config.folder / "trackers" / "mine.json").write_text("torn {", encoding="utf-8")
    recorder = Recorder()
    mine = started(config, recorder, said)
    mine.trial(trial(0, 0.5, 1000.0), 0.5, new=False)
    mine.close("finished")
    assert (said, recorder.steps) == ([], [0])


def test_what_is_lacking_is_told_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match=r"unknown run\.trackers 'wandbb'; did you mean 'wandb'"):
        check_trackers(["wandbb"])
    monkeypatch.setitem(TRACKERS, "gone", Row(lambda opening: Recorder(), "no_such_library_here", ""))
    with pytest.raises(RunError, match=r"run\.trackers \(gone\): its library.*pip install gone"):
        check_trackers(["gone"])
    monkeypatch.setitem(TRACKERS, "keyless", Row(lambda opening: Recorder(), "json", "", lambda: "there is no key"))
    with pytest.raises(RunError, match=r"run\.trackers \(keyless\): there is no key"):
        check_trackers(["keyless"])
    with pytest.raises(RunError) as caught:
        check_trackers(["gone", "tensorboard", "keyless", "gone"])
    named = [line.split(":")[0] for line in str(caught.value).splitlines() if "tensorboard" not in line]
    assert named == ["run.trackers (gone)", "run.trackers (keyless)"]


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_without_a_key_is_told_and_never_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(RunError, match="WANDB_MODE=offline"):
        check_trackers(["wandb"])


def test_nothing_is_asked_where_nothing_is_wanted(config: SearchConfig) -> None:
    check_trackers([])
    assert trackings(config, print) == []


def test_metrics_are_finite_numbers() -> None:
    odd = trial(0, float("inf"), 1.0)
    assert metrics_of(odd, float("nan")) == {"failed": 0.0, "documents": 100.0, "seconds": 2.0, "standard_error": 0.01}


def test_parameters_are_the_configuration_without_credentials(
    config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecrettoken")
    models = config.models.model_copy(update={"base": "https://hf_averysecrettoken@hub/model"})
    parameters = parameters_of(config.model_copy(update={"models": models}))
    assert parameters["models.base"] == "https://***@hub/model"
    assert parameters["score.documents.search"] == "100"
    assert "run.storage" not in parameters
    assert "verysecret" not in str(parameters)
