"""Runs that are killed, stopped, or lose a worker go on and end as the run that was left alone."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from evolve.workers.interruption import WAITING
from tests.end_to_end.conftest import ROOT, Config, command, environment, evolve

SearchFile = Callable[[Config], Path]
PATIENCE = 240.0  # seconds for one thing to happen on a busy machine
CLOCK = ("seconds", "finished")
LOADING = """
while b"ray::Worker.load" in Path("/proc/self/cmdline").read_bytes() and Path(__file__).with_name("closed").exists():
    time.sleep(0.05)
"""
HOW_TO_GO_ON = "interrupted; what is finished is recorded: the same command goes on from there"


class Driver:
    """An `evolve run` at work, in a process group of its own as a terminal starts it."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.out, self.err = path.with_suffix(".out"), path.with_suffix(".err")
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = psutil.Popen(
                command("run", path),
                cwd=ROOT,
                env=environment() | {"TMPDIR": str(scratch)},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.family: dict[psutil.Process, str] = {}

    def until(self, happened: Callable[[], Any]) -> None:
        """Wait for something to happen while the run is at work."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, self.out.read_text()
            time.sleep(0.002)

    def says(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.out.read_text()

    def errors(self) -> str:
        """What stands on stderr, for whatever number of candidates."""
        return re.sub(r"\d+ candidates? that (is|are) at work (is|are)", "{}", self.err.read_text())

    def workers(self, doing: str = "evaluate") -> list[psutil.Process]:
        """The Ray workers that evaluate a candidate right now, or do what else a worker can."""
        return [each for each in self.process.children(recursive=True) if named(each, f"ray::Worker.{doing}")]

    def end(self, number: signal.Signals, group: bool = False) -> int:
        """Send a signal; returns the exit code."""
        self.family = {each: name_of(each) for each in self.process.children(recursive=True)}
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return int(self.process.wait(PATIENCE))

    def finish(self) -> str:
        """Wait for a good end; returns what was said."""
        assert self.process.wait(PATIENCE) == 0, self.err.read_text()
        return self.out.read_text()

    def stopped_well(self) -> bool:
        """Whether that, and no more, was said; what runs is waited for where the signal meets any."""
        return self.errors() in (f"{waiting}\n{HOW_TO_GO_ON}\n" for waiting in ("", WAITING))

    def leaves_no_process(self, seconds: float, but: str = "nothing") -> None:
        ended = [each for each, name in self.family.items() if but not in name]
        _, alive = psutil.wait_procs(ended, timeout=seconds)
        assert [each for each in alive if status(each) not in (psutil.STATUS_ZOMBIE, "gone")] == []


def name_of(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def named(process: psutil.Process, title: str) -> bool:
    try:
        return title in " ".join(process.cmdline())
    except psutil.Error:
        return False


def status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return "gone"


def recorded(folder: Path) -> int:
    """Trials in the ledger, read without Optuna while a run may be writing."""
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=10) as connection:
            return int(connection.execute("select count(*) from trials").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not made yet


def trials_of(folder: Path) -> list[dict[str, str]]:
    """All columns of trials.csv but the clock's: ids, values, genes, digests of the recipes."""
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(file)]


def same_end(folder: Path, alone: Path) -> None:
    """The run has the trials, the winner and the verdict of the one left alone, and left nothing half-done."""
    assert trials_of(folder) == trials_of(alone)
    assert recorded(folder) == len(trials_of(alone))  # nothing is recorded twice
    assert (folder / "best.yaml").read_text() == (alone / "best.yaml").read_text()
    weights = "checkpoint/model.safetensors"
    assert (folder / weights).read_bytes() == (alone / weights).read_bytes()
    assert verdict(folder) == verdict(alone)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert files == {str(path.relative_to(alone)) for path in alone.rglob("*")}


def verdict(folder: Path) -> list[str]:
    """The report without the lines that name the run, count its seconds, or show its folders."""
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|") or "points" in line]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Temporary files of a run, under a short name: Ray puts sockets there."""
    folder = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(scratch: Path) -> Iterator[Callable[[Path], Driver]]:
    drivers: list[Driver] = []

    def begin(path: Path) -> Driver:
        drivers.append(Driver(path, scratch))
        return drivers[-1]

    yield begin
    for driver in drivers:
        if driver.process.poll() is None:
            driver.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"output": tmp_path_factory.mktemp("alone")}


@pytest.fixture
def left_alone(alone: dict[str, Path], config: Config) -> Path:
    """The folder of the run that nobody disturbed; made once."""
    output = alone["output"]
    if not (output / "small").is_dir():
        quiet = config | {"run": {"workers": 1, "output": str(output)}}
        path = output / "alone.yaml"
        path.write_text(yaml.safe_dump(quiet), encoding="utf-8")
        done = evolve("run", path)
        assert done.returncode == 0, done.stderr
    return output / "small"


Start = Callable[[Path], Driver]


def test_a_driver_killed_at_every_stage(
    config: Config, search_file: SearchFile, start: Start, left_alone: Path, tmp_path: Path
) -> None:
    folder, path = tmp_path / "results" / "small", search_file(config)
    before = 0

    def half_written() -> bool:
        return any(folder.glob(".checkpoint.partial/*.safetensors*"))

    moments: list[Callable[[Driver], Callable[[], Any]]] = [
        lambda driver: lambda: recorded(folder) >= 2,
        lambda driver: lambda: recorded(folder) >= 13,
        lambda driver: driver.says("finalists on the selection documents: 1"),
        lambda driver: half_written,
        lambda driver: driver.says("report documents: 1 of"),
    ]
    for moment in moments:
        driver = start(path)
        driver.until(moment(driver))
        assert driver.end(signal.SIGKILL) == -signal.SIGKILL
        assert recorded(folder) >= before
        if before:
            assert f"going on after {before} recorded candidates" in driver.out.read_text()
        before = recorded(folder)
    said = start(path).finish()
    assert "search: " not in said  # all trials were there
    assert re.search(r"report documents: \d+ of \d+", said)
    same_end(folder, left_alone)


def test_a_killed_driver_and_a_killed_worker_on_ray(
    config: Config, search_file: SearchFile, start: Start, left_alone: Path, tmp_path: Path
) -> None:
    config["run"]["workers"] = 2
    folder, path = tmp_path / "results" / "small", search_file(config)
    driver = start(path)
    driver.until(lambda: recorded(folder) >= 3)
    driver.end(signal.SIGKILL)
    kept = recorded(folder)
    driver.leaves_no_process(seconds=30, but="Agent")
    killed = driver

    driver = start(path)
    driver.until(lambda: recorded(folder) > kept and driver.workers())
    driver.workers()[0].kill()
    said = driver.finish()
    assert f"going on after {kept} recorded candidates" in said
    assert "failed" not in said
    same_end(folder, left_alone)
    killed.leaves_no_process(seconds=90)  # Ray's agents look for their head for a minute


def test_a_candidate_that_always_kills_its_worker_is_a_recorded_failure(
    config: Config, search_file: SearchFile, start: Start, tmp_path: Path
) -> None:
    config["run"]["workers"] = 2
    config["search"]["trials"] = 12
    folder, path = tmp_path / "results" / "small", search_file(config)
    driver = start(path)
    driver.until(lambda: recorded(folder) >= 4)

    def failed() -> bool:
        for worker in driver.workers():
            worker.kill()
        return "failed (worker died)" in driver.out.read_text()

    driver.until(failed)
    driver.finish()
    failures = [row["failure"] for row in trials_of(folder)]
    assert len(failures) == 12
    assert any("worker died" in failure for failure in failures)
    assert failures.count("") >= 4


def test_stopped_on_ray_and_second_drivers_refused(
    config: Config, search_file: SearchFile, start: Start, scratch: Path, tmp_path: Path
) -> None:
    config["run"] |= {"workers": 2, "storage": f"sqlite:///{tmp_path / 'shared.db'}"}
    config["search"]["trials"] = 5000
    folder, path = tmp_path / "results" / "small", search_file(config)
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump(config | {"run": config["run"] | {"output": str(tmp_path / "elsewhere")}}))
    driver = start(path)
    driver.until(driver.says("search: 1 of 5000"))

    second = evolve("run", path)
    assert (second.returncode, "another run is at work in this folder" in second.stderr) == (2, True), second.stderr
    third = evolve("run", elsewhere)
    assert (third.returncode, "is already driving this run" in third.stderr) == (2, True), third.stderr

    for number in (signal.SIGINT, signal.SIGTERM):
        assert driver.end(number, group=number == signal.SIGINT) == 130, driver.err.read_text()
        assert driver.stopped_well()
        driver.leaves_no_process(seconds=60)
        assert list(scratch.glob("evolve-*")) == []
        assert sorted(each.name for each in folder.iterdir()) == [
            ".lock",
            "documents",
            "items",
            "ledger.json",
            "log.jsonl",
            "requests",
            "search.yaml",
        ]
        if number == signal.SIGINT:
            driver = start(path)
            driver.until(driver.says(" of 5000"))


def test_stopped_in_one_process(config: Config, search_file: SearchFile, start: Start, tmp_path: Path) -> None:
    config["search"]["trials"] = 5000
    driver = start(search_file(config))
    driver.until(lambda: recorded(tmp_path / "results" / "small") >= 2)
    assert driver.end(signal.SIGINT, group=True) == 130
    assert driver.stopped_well()


def test_asked_twice_it_does_not_wait(
    config: Config, search_file: SearchFile, start: Start, gate: Path, tmp_path: Path
) -> None:
    config["run"]["candidate_minutes"] = 60  # so that a single worker, too, has a process of its own
    path = search_file(config)
    gate.touch()
    driver = start(path)
    driver.until(driver.workers)
    assert "1 worker with 1 thread, on Ray" in driver.out.read_text()
    driver.process.send_signal(signal.SIGTERM)
    driver.until(lambda: WAITING in driver.errors())
    assert driver.end(signal.SIGINT, group=True) == 130
    assert driver.errors() == f"{WAITING}\n{HOW_TO_GO_ON}\n"

    driver = start(path)
    driver.until(driver.workers)
    driver.process.send_signal(signal.SIGINT)
    driver.until(lambda: WAITING in driver.errors())
    gate.unlink()
    assert driver.process.wait(PATIENCE) == 130
    assert list((tmp_path / "results" / "small" / "items").rglob("*.parquet"))  # of the candidate that was at work


def test_stopped_while_its_workers_start(config: Config, search_file: SearchFile, start: Start, gate: Path) -> None:
    config["run"]["workers"] = 2
    with gate.with_name("gate.py").open("a", encoding="utf-8") as code:
        code.write(LOADING)  # so that no worker can take a job before the signal comes
    gate.touch()
    driver = start(search_file(config))
    driver.until(lambda: driver.workers("load"))
    assert driver.end(signal.SIGINT) == 130
    assert driver.err.read_text() == f"\n{HOW_TO_GO_ON}\n"
    driver.leaves_no_process(30)


def test_stopped_while_it_imports(config: Config, search_file: SearchFile, start: Start) -> None:
    path = search_file(config)
    for seconds in (0.0, 1.0, 2.5):
        driver = start(path)
        driver.until(lambda: any("libtorch" in each.path for each in driver.process.memory_maps()))  # noqa: B023
        time.sleep(seconds)
        assert driver.end(signal.SIGINT, group=True) == 130, driver.err.read_text()
        assert driver.err.read_text().split("\n") == ["", HOW_TO_GO_ON, ""]


@pytest.mark.slow
def test_a_killed_driver_and_a_second_one_with_postgresql(
    config: Config, search_file: SearchFile, start: Start, tmp_path: Path, postgresql: str
) -> None:
    config["name"] = "followed"  # other tests have runs on this server
    config["run"]["storage"] = postgresql
    config["search"]["trials"] = 5000
    path = search_file(config)
    driver = start(path)
    driver.until(driver.says("search: 1 of 5000"))
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump(config | {"run": config["run"] | {"output": str(tmp_path / "elsewhere")}}))
    second = evolve("run", elsewhere)
    assert (second.returncode, "is already driving this run" in second.stderr) == (2, True), second.stderr
    driver.end(signal.SIGKILL)
    third = start(elsewhere)  # the run stands in the database; this folder is as good as the other
    third.until(third.says(" of 5000"))
    assert "going on after" in third.out.read_text()
    assert third.end(signal.SIGINT, group=True) == 130
    assert third.stopped_well()
