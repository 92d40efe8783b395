"""Every kind of storage keeps the same promises, and Optuna reads what stands there."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.engine import make_url

from evolve.errors import RunError
from evolve.storage.lease import Lease
from evolve.storage.ledger import Ledger
from evolve.storage.parts import LARGEST
from evolve.storage.shown import SHOWN_GENES
from evolve.storage.storage import DRIVERS, engine_arguments
from evolve.storage.urls import journal_path
from evolve.trial import Failure, Trial
from search_spaces.gene import Gene

ROOT = Path(__file__).parents[3]
GENES = (Gene("weight.a", 0.0, 1.5), Gene("layers", 1, 4, integer=True), Gene("method", choices=("ties", "slerp")))
VALUES: dict[str, Any] = {"weight.a": 1 / 3, "layers": 3, "method": "slerp"}
KINDS = ("sqlite", "journal", "postgresql", "mysql")


@pytest.fixture(params=[kind if kind in KINDS[:2] else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage; those of one server are shared by the tests, which take names of their own."""
    files = {"sqlite": f"sqlite:///{tmp_path / 'study.db'}", "journal": f"journal:{tmp_path / 'runs.log'}"}
    return files.get(request.param) or str(request.getfixturevalue(request.param))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)[:80]


def trial(number: int, **changes: Any) -> Trial:
    facts: dict[str, Any] = {"id": number, "generation": 0, "point": (1 / 3, 5e-324), "digest": f"{number:064x}"}
    return Trial(**{**facts, "value": 0.1 + 0.2, "tasks": {"märchen": 2 / 3}, **changes})


def large(number: int) -> Trial:
    recipe = {"slices": [{"sources": ['a\\"b'] * 20, "weight": each / 7} for each in range(3000)]}
    return trial(number, point=tuple(each / 2000 for each in range(2000)), recipe=recipe)


def study_of(url: str, name: str) -> optuna.Study:
    """The run as Optuna opens it by itself."""
    if path := journal_path(url):
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        return optuna.load_study(storage=optuna.storages.JournalStorage(backend), study_name=name)
    return optuna.load_study(storage=url, study_name=name)


def test_trials_come_back_exactly(url: str, name: str) -> None:
    ledger = Ledger(url, name)
    failed = trial(1, value=None, failure=Failure("merge", "a tensor; \u2620"))
    written = [trial(0), failed, trial(3, loglikelihoods={"sums": -math.inf}), trial(2, value=-1e308)]
    for each in written:
        ledger.record(each, GENES, VALUES)
    written.sort(key=lambda each: each.id)
    assert ledger.trials() == written
    assert Ledger(url, name).trials() == written
    assert Ledger(url, name, must_exist=True).trials() == written


def test_what_is_larger_than_a_text_column_comes_back(url: str, name: str) -> None:
    """A column of MySQL holds 64 KB."""
    ledger, again = Ledger(url, name), Ledger(url, name)
    assert len(json.dumps(large(0).recipe)) > 3 * LARGEST
    ledger.record(large(0), GENES, VALUES)
    ledger.record(trial(1), GENES, VALUES)
    assert again.trials() == [large(0), trial(1)]
    slopes = {str(each): [1 / (each + 1), '"'] for each in range(9000)}
    ledger.add_event("slopes", steps=slopes)
    ledger.add_event("worth")
    assert [each["kind"] for each in again.events()] == ["slopes", "worth"]
    assert again.events("slopes")[0]["steps"] == slopes
    for length in (9000, 3, 9001, 20000):
        ledger.set_attribute("verdict", ["é"] * length)
        assert again.attribute("verdict") == ["é"] * length
    assert again.attribute("verdic") is None


def test_optuna_reads_what_stands_there(url: str, name: str) -> None:
    ledger = Ledger(url, name)
    genes = (*GENES, *(Gene(f"g{each}") for each in range(SHOWN_GENES)))
    values = VALUES | {f"g{each}": each / SHOWN_GENES for each in range(SHOWN_GENES)}
    for each in (trial(0), trial(1, value=None, failure=Failure("merge", "no")), large(2), trial(3, value=0.5)):
        ledger.record(each, genes, values)
    study = study_of(url, name)
    first, failed, _, best = study.get_trials()
    assert [each.number for each in study.get_trials()] == [0, 1, 2, 3]
    assert failed.state == optuna.trial.TrialState.FAIL
    assert first.value == 0.1 + 0.2
    assert study.best_trial.number == best.number == 3
    assert first.params == {key: values[key] for key in list(values)[:SHOWN_GENES]}
    assert first.datetime_complete is not None
    assert (optuna.trial.FrozenTrial.duration.fget(first)).total_seconds() == 0  # type: ignore[attr-defined]


def test_what_optuna_writes_is_read(url: str, name: str) -> None:
    """Ledgers of earlier versions, and trials that stand between ours."""
    ledger = Ledger(url, name)
    ledger.record(trial(0), GENES, VALUES)
    data = {**vars(trial(1)), "failure": None, "point": [0.25, 0.5]}
    del data["loglikelihoods"]
    study_of(url, name).add_trial(optuna.create_trial(value=0.3, user_attrs={"evolve": data}))
    study_of(url, name).set_user_attr("verdict", {"rows": [1]})
    ledger.record(trial(2), GENES, VALUES)
    assert ledger.trials() == [trial(0), trial(1, point=(0.25, 0.5)), trial(2)]
    assert [each.number for each in study_of(url, name).get_trials()] == [0, 1, 2]
    assert ledger.attribute("verdict") == {"rows": [1]}


def test_a_trial_is_recorded_once(url: str, name: str) -> None:
    """As where the answer to a commit was lost: the same trial is written again."""
    ledger = Ledger(url, name)
    ledger.record(trial(0), GENES, VALUES)
    again = Ledger(url, name)
    for each in (large(1), trial(2)):
        again.record(each, GENES, VALUES)
    for each in (trial(2), large(1), trial(3)):
        ledger.record(each, GENES, VALUES)
    assert [each.number for each in study_of(url, name).get_trials()][:3] == [0, 1, 2]
    assert [each.id for each in ledger.trials()] == [0, 1, 2, 3]


def test_several_runs_share_a_storage(url: str, name: str) -> None:
    one, two = Ledger(url, f"{name}-one"), Ledger(url, f"{name}-two")
    one.record(trial(0, value=0.1), GENES, VALUES)
    two.record(trial(0, value=0.2), GENES, VALUES)
    one.record(trial(1, value=0.3), GENES, VALUES)
    one.add_event("start", run=1)
    two.add_event("start", run=2)
    assert [each.value for each in one.trials()] == [0.1, 0.3]
    assert [each.value for each in two.trials()] == [0.2]
    assert [each["run"] for each in one.events()] == [1]
    with Lease(url, f"{name}-one") as first, Lease(url, f"{name}-two"):
        first.check()
        with pytest.raises(RunError, match="already driving"), Lease(url, f"{name}-two"):
            pass


def test_a_run_that_must_exist(url: str, name: str) -> None:
    Ledger(url, name)
    Ledger(url, name, must_exist=True)
    with pytest.raises(RunError, match=r"^run\.storage \(.*\): holds no run named none of these"):
        Ledger(url, "none of these", must_exist=True)


def test_a_lease_is_left_free(url: str, name: str) -> None:
    assert Lease(url, name).living() is None
    for _ in range(2):
        with Lease(url, name) as lease:
            holder = Lease(url, name).living()
            assert holder is not None
            assert holder.pid == os.getpid()
            lease.check()
        assert Lease(url, name).living() is None


SWALLOWED = """
import sys, os
from evolve.storage.ledger import Ledger
from evolve.storage.lease import Lease
sys.path.insert(0, sys.argv[1])
from test_storages import GENES, VALUES, trial
with Lease(sys.argv[2], sys.argv[3]):
    Ledger(sys.argv[2], sys.argv[3]).record(trial(0), GENES, VALUES)
    os._exit(9)
"""


def test_a_killed_driver_is_followed_at_once(url: str, name: str) -> None:
    command = [sys.executable, "-c", SWALLOWED, str(Path(__file__).parent), url, name]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert ended.returncode == 9
    with Lease(url, name):
        assert Ledger(url, name).trials() == [trial(0)]


@pytest.mark.slow
def test_a_url_without_a_driver_takes_the_one_that_is_installed(postgresql: str) -> None:
    Ledger(postgresql.replace("+psycopg2", ""), "plain").record(trial(0), GENES, VALUES)
    assert Ledger(postgresql, "plain").trials() == [trial(0)]


@pytest.mark.parametrize("driver", [f"{kind}+{name}" for kind, rows in DRIVERS.items() for name, _ in rows])
def test_no_driver_waits_for_ever(driver: str) -> None:
    given = engine_arguments(f"{driver}://me@host/runs?connect_timeout=3")["connect_args"]
    assert {each.split("_")[0] for each in given} & {"read", "tcp"}
    assert "connect_timeout" not in given


@pytest.mark.slow
def test_optuna_dashboard_opens_it(url: str, name: str) -> None:
    """It takes a journal by its path, and everything else by the URL of search.yaml."""
    program = shutil.which("optuna-dashboard")
    if program is None:
        pytest.skip("optuna-dashboard is not installed")
    ledger = Ledger(url, name)
    for each in (trial(0), large(1), trial(2, value=None, failure=Failure("merge", "no"))):
        ledger.record(each, GENES, VALUES)
    ledger.add_event("start")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, str(journal_path(url) or url), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        studies = asked(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        (number,) = [each["study_id"] for each in studies if each["study_name"] == name]
        found = asked(f"http://127.0.0.1:{port}/api/studies/{number}?after=0")
        assert [each["state"] for each in found["trials"]] == ["Complete", "Complete", "Fail"]
        assert [each["name"] for each in found["trials"][0]["params"]] == list(VALUES)
    finally:
        process.kill()
        process.wait()


def asked(address: str) -> Any:
    """The answer of a server that may still be starting."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


class Forgetful:
    """Between a client and its server: the answers to `left` commits are lost, and the connections with them."""

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = self._server.set(port=self._listener.getsockname()[1]).render_as_string(hide_password=False)
        self.left = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection((str(self._server.host), int(self._server.port or 0)))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(*pair, pair[0] is client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if asking and b"COMMIT" in data.upper() and self.left > 0:
                    self.left -= 1
                    source.shutdown(socket.SHUT_RDWR)
                    target.sendall(data)
                    time.sleep(0.3)  # it is done, and nobody hears of it
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.mark.slow
@pytest.mark.parametrize("server", ["postgresql", "mysql"])
def test_a_commit_whose_answer_is_lost_records_once(
    server: str, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolve.storage.storage.PAUSE", 0.01)
    said: list[str] = []
    between = Forgetful(str(request.getfixturevalue(server)))
    ledger = Ledger(between.url, name, say=said.append)
    for number in range(4):
        between.left = number
        ledger.record(trial(number), GENES, VALUES)
        assert between.left == 0 or number > 1  # the first lost commit was done: the second attempt finds it
    between.left = 1
    ledger.add_event("start")
    between.left = 0
    between.close()
    assert [each.number for each in study_of(str(request.getfixturevalue(server)), name).get_trials()] == [0, 1, 2, 3]
    assert ledger.trials() == [trial(each) for each in range(4)]
    assert [each["kind"] for each in ledger.events()] == ["start"]
    assert said[0] == "the storage does not answer; waiting for up to 5 minutes"
    assert all(each.startswith("the storage ") for each in said)
    ledger.close()


def test_a_journal_whose_folder_fails_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.storage.storage.PAUSE", 0.01)
    said: list[str] = []
    url = f"journal:{tmp_path / 'runs.log'}"
    ledger = Ledger(url, "run", say=said.append)
    fsync, left = os.fsync, [3]

    def failing(handle: int) -> None:
        fsync(handle)
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    ledger.record(trial(0), GENES, VALUES)
    assert len(said) == 2
    assert [each.number for each in study_of(url, "run").get_trials()] == [0]
    monkeypatch.setattr("evolve.storage.storage.PATIENCE", 0.05)
    left[0] = 10**6
    with pytest.raises(RunError, match=r"Input/output error; waited for \d+ seconds; check that it"):
        ledger.add_event("start")
