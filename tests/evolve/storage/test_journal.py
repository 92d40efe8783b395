"""A journal file survives what kills its writers, and several of them share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolve.errors import RunError
from evolve.storage import lease as lease_module
from evolve.storage.journal import TORN, cut_torn_tail, last_line, locked
from evolve.storage.lease import Lease
from evolve.storage.lease_slots import FileSlot, Holder
from evolve.storage.ledger import Ledger
from evolve.storage.urls import journal_path
from evolve.trial import Trial

ROOT = Path(__file__).parents[3]


def trial(number: int) -> Trial:
    return Trial(number, 0, (number / 7,) * 100, f"{number:064x}", number / 3)


def url(path: Path) -> str:
    return f"journal://{path}"


def numbers(path: Path, name: str = "run") -> list[int]:
    """The trials as Optuna reads them."""
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    storage = optuna.storages.JournalStorage(backend)
    return [each.number for each in optuna.load_study(storage=storage, study_name=name).get_trials()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with two trials of a run."""
    path = tmp_path / "runs.log"
    ledger = Ledger(url(path), "run")
    for number in range(2):
        ledger.record(trial(number), (), {})
    return path


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("journal:///shared/runs.log", "/shared/runs.log"),
        ("journal:////shared/runs.log", "/shared/runs.log"),
        ("journal:/shared/runs.log", "/shared/runs.log"),
        ("journal:runs.log", "runs.log"),
        ("journal:shared/runs.log", "shared/runs.log"),
    ],
)
def test_a_url_names_a_file(written: str, read: str) -> None:
    assert journal_path(written) == Path(read)


@pytest.mark.parametrize("written", ["journal:", "journal:///", "journal://host/runs.log", "journal:///shared/"])
def test_a_url_that_names_none(written: str) -> None:
    with pytest.raises(RunError, match=r"run\.storage \(journal:.*\): names (a host|no file); write journal:///"):
        Ledger(written, "run")


def test_a_torn_line_is_cut_before_the_next_one(path: Path) -> None:
    """Both by a writer that begins, and by one that was at work when another was killed."""
    at_work = Ledger(url(path), "run")
    another = Ledger(url(path), "another")
    for number, writer in ((2, at_work), (3, Ledger(url(path), "run"))):
        with path.open("ab") as file:
            file.write(b'{"op_code":4,"worker_id":"killed","study_id":0,"datetime_st')
        assert [each.id for each in Ledger(url(path), "run", must_exist=True).trials()] == list(range(number))
        writer.record(trial(number), (), {})
        another.add_event("start")
    assert [each.id for each in Ledger(url(path), "run").trials()] == [0, 1, 2, 3]
    assert numbers(path) == [0, 1, 2, 3]
    assert path.with_name(path.name + TORN).read_bytes().count(b"killed") == 2


def test_a_lock_that_was_broken_records_nothing_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, broken = os.fsync, []

    def slow(file: int) -> None:
        fsync(file)
        if not broken:  # somebody took this writer for dead
            broken.append(path.with_name(f"{path.name}.lock"))
            broken[0].unlink()

    ledger = Ledger(url(path), "run")
    monkeypatch.setattr(os, "fsync", slow)
    ledger.record(trial(2), (), {})
    assert broken
    assert numbers(path) == [0, 1, 2]
    ledger.record(trial(3), (), {})
    assert [each.id for each in ledger.trials()] == [0, 1, 2, 3]


def test_who_only_reads_changes_nothing(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"op_code":4')  # it is being written
    before = path.read_bytes()
    assert len(Ledger(url(path), "run", must_exist=True).trials()) == 2
    assert path.read_bytes() == before
    with pytest.raises(RunError, match="holds no run named run"):
        Ledger(url(path.with_name("none.log")), "run", must_exist=True)
    assert sorted(os.listdir(path.parent)) == ["runs.log"]


def test_a_line_that_was_appended_to_half_of_another_is_found(path: Path) -> None:
    """As writers other than ours leave it; Optuna cannot read it, and can once a run has begun here again."""
    whole = path.read_bytes()
    *_, last = whole.splitlines(keepends=True)
    half = last[: len(last) // 2]
    path.write_bytes(whole.removesuffix(last) + half + last + half)
    with pytest.raises(ValueError):
        numbers(path)
    assert [each.id for each in Ledger(url(path), "run", must_exist=True).trials()] == [0, 1]
    ledger = Ledger(url(path), "run")
    ledger.record(trial(2), (), {})
    assert ledger.trials() == [trial(0), trial(1), trial(2)]
    assert numbers(path) == [0, 1, 2]


def test_a_line_that_is_nothing_is_named(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\x00 nothing\n" + b"".join(lines[1:]))
    with pytest.raises(RunError, match=r"runs\.log\): line 2 is damaged; remove that line"):
        Ledger(url(path), "run")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^run\.storage \(journal:.*\): .*No such file or directory.*; check that"):
        Ledger(url(tmp_path / "none" / "runs.log"), "run")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_was_cut_anywhere_goes_on(path: Path, data: st.DataObject) -> None:
    """As after a kill or a full disk at any byte: all whole lines are read, and the run goes on."""
    whole = path.read_bytes()
    length = data.draw(st.integers(0, len(whole)))
    again = path.with_name(f"cut-{length}.log")
    again.write_bytes(whole[:length])
    ledger = Ledger(url(again), "run")
    kept = max(0, whole[:length].count(b"\n") - 1)  # the first line is the study's
    assert ledger.trials() == [trial(each) for each in range(kept)]
    ledger.record(trial(9), (), {})
    assert ledger.trials() == [*(trial(each) for each in range(kept)), trial(9)]
    assert numbers(again) == list(range(kept + 1))


@given(st.lists(st.binary(max_size=30), max_size=5), st.integers(1, 9))
def test_the_last_line_is_found_over_blocks(parts: list[bytes], block: int) -> None:
    import io

    content = b"\n".join(parts)
    assert last_line(io.BytesIO(content), len(content), block) == content.rpartition(b"\n")[2]


WRITER = """
import sys
from evolve.storage.ledger import Ledger
sys.path.insert(0, sys.argv[1])
from test_journal import trial
ledger = Ledger(sys.argv[2], sys.argv[3])
for number in range(12):
    ledger.record(trial(number), (), {})
    ledger.add_event("decided", number=number)
"""


def test_several_writers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(Path(__file__).parent), url(path), name], env=environment)
        for name in ("one", "two", "three")
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for name in ("one", "two", "three"):
        ledger = Ledger(url(path), name, must_exist=True)
        assert ledger.trials() == [trial(each) for each in range(12)]
        assert [each["number"] for each in ledger.events()] == list(range(12))
        assert numbers(path, name) == list(range(12))


def test_nothing_is_cut_from_a_whole_file(path: Path) -> None:
    before = path.read_bytes()
    cut_torn_tail(path)
    assert path.read_bytes() == before
    assert not path.with_name(path.name + TORN).exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT", 0.05)
    monkeypatch.setattr(lease_module, "FOLDER_PATIENCE", 1.5)


def change(path: Path, **values: Any) -> Holder:
    file = path.with_name(f"{path.name}.run.lease")
    with locked(file):
        holder = Holder(**{**json.loads(file.read_text()), **values})
        file.write_text(json.dumps(asdict(holder)))
    return holder


@pytest.mark.usefixtures("quick")
def test_a_lease_is_a_file_beside_it_while_it_is_held(path: Path) -> None:
    slot = FileSlot(path, "run")
    with Lease(url(path), "run") as lease:
        deadline = time.monotonic() + 10
        while (holder := slot.holder()) is None or holder.beat < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lease.check()
        with pytest.raises(RunError, match="already driving this run"), Lease(url(path), "run"):
            pass
    assert sorted(os.listdir(path.parent)) == ["runs.log"]


@pytest.mark.usefixtures("quick")
def test_another_machine_is_watched(path: Path) -> None:
    with Lease(url(path), "run") as lease:
        change(path, host="elsewhere")
        with pytest.raises(RunError, match="on elsewhere is already driving"), Lease(url(path), "run"):
            pass
        taken = change(path, owner="another")
        deadline = time.monotonic() + 10
        while lease._lost is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(RunError, match="on elsewhere took this run over"):
            lease.check()
    assert FileSlot(path, "run").holder() == taken  # leaving does not free what another one holds
    start = time.monotonic()
    with Lease(url(path), "run"):
        assert time.monotonic() - start >= 1.5


def test_a_lease_that_is_none_is_named(path: Path) -> None:
    path.with_name(f"{path.name}.run.lease").write_text("my notes")
    with pytest.raises(RunError, match=r"runs\.log\.run\.lease: is no lease .*; remove it"):
        Lease(url(path), "run").living()
