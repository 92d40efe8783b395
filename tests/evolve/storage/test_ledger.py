"""The ledger: what is written comes back exactly, in one transaction each, and errors never show a password."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import create_trial
from sqlalchemy import event

from evolve.errors import RunError
from evolve.storage.ledger import Ledger
from evolve.storage.shown import SHOWN_GENES
from evolve.storage.urls import hidden
from evolve.trial import Failure, Trial
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Range
from search_spaces.depth import Family
from search_spaces.gene import Gene
from search_spaces.space import search_space

ROOT = Path(__file__).parents[3]
GENES = (Gene("weight.a", 0.0, 1.5), Gene("weight.b", 1 / 3, 2 / 3), Gene("method", choices=("ties", "slerp")))
VALUES = {"weight.a": 0.75, "weight.b": 0.5, "method": "slerp"}


def trial(number: int, value: float | None = 0.1 + 0.2, **changes: Any) -> Trial:
    facts: dict[str, Any] = {
        "id": number,
        "generation": number // 4,
        "point": (1 / 3, 0.1 + 0.2, 5e-324),
        "digest": f"{number:064x}",
        "value": value,
        "standard_error": 1 / 7,
        "documents": 80,
        "tasks": {"sums": 2 / 3, "märchen": 0.1},
        "loglikelihoods": {"sums": -1 / 3},
        "failure": None if value is not None else Failure("merge", "a tensor: 3 rows, 4 expected; \u2620"),
        "seconds": {"merge": 0.1, "forward": 1e-9},
        "finished": 1.7e9 + 1 / 3,
    }
    return Trial(**{**facts, **changes})


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(sqlite(tmp_path), "run")


def test_trials_come_back_exactly(tmp_path: Path, ledger: Ledger) -> None:
    written = [trial(0), trial(1, None), trial(2, -1e308), trial(3, 0.0, tasks={}, seconds={})]
    for each in written:
        ledger.record(each, GENES, VALUES)
    assert ledger.trials() == written
    assert Ledger(sqlite(tmp_path), "run").trials() == written
    assert type(written[0].point) is type(ledger.trials()[0].point)


def test_trials_from_before_log_likelihoods_were_recorded_still_open(ledger: Ledger) -> None:
    data = asdict(trial(0))
    del data["loglikelihoods"]
    optuna.load_study(storage=ledger.url, study_name="run").add_trial(
        create_trial(value=data["value"], user_attrs={"evolve": data})
    )
    assert ledger.trials() == [trial(0, loglikelihoods={})]


def test_an_answer_without_probability_is_kept(ledger: Ledger) -> None:
    odd = trial(0, loglikelihoods={"sums": -math.inf})
    ledger.record(odd, GENES, VALUES)
    assert ledger.trials() == [odd]


floats = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(floats, st.lists(st.floats(0, 1), min_size=3, max_size=3), st.text(max_size=20))
def test_any_number_and_text_comes_back(ledger: Ledger, value: float, point: list[float], text: str) -> None:
    number = len(ledger.trials())
    text = text.encode("utf-8", "ignore").decode()
    written = trial(number, value, point=tuple(point), tasks={text: value})
    ledger.record(written, GENES, VALUES)
    failed = trial(number + 1, None, failure=Failure("error", text))
    ledger.record(failed, GENES, VALUES)
    assert ledger.trials()[-2:] == [written, failed]
    assert math.copysign(1, ledger.trials()[-2].value or value) == math.copysign(1, value)


def test_trials_are_ordered_by_id(ledger: Ledger) -> None:
    for number in (2, 0, 3, 1):
        ledger.record(trial(number), GENES, VALUES)
    assert [each.id for each in ledger.trials()] == [0, 1, 2, 3]


def test_many_genes_are_kept_and_some_are_shown(ledger: Ledger) -> None:
    genes = tuple(Gene(f"g{i}") for i in range(200))
    written = trial(0, point=tuple(i / 200 for i in range(200)))
    ledger.record(written, genes, {gene.name: 0.5 for gene in genes})
    assert ledger.trials() == [written]
    (frozen,) = optuna.load_study(storage=ledger.url, study_name="run").get_trials()
    assert list(frozen.params) == [gene.name for gene in genes[:SHOWN_GENES]]


def test_values_that_recipes_round_are_recorded(ledger: Ledger) -> None:
    """A recipe's numbers have four decimals, bounds such as 1/3 and 2/3 have more."""
    family = Family("base", ("a", "b"), 2, ("embed",), "float32")
    for number, (low, high) in enumerate([(1 / 3, 2 / 3), (0.66664, 0.77777), (1e-6, 1.0), (0.5, 0.50001)]):
        spec = Spec(family, ("task_arithmetic",), SPACES["blocks"], 1, (), {"weight": Range(low, high)}, 0)
        space = search_space(spec)
        for unit in (0.0, 1.0):
            point = (unit,) * len(space.genes)
            ledger.record(trial(2 * number + int(unit), point=point), space.genes, space.named(point))
    assert len(ledger.trials()) == 8


def test_events_and_attributes(tmp_path: Path, ledger: Ledger) -> None:
    assert ledger.events() == []
    assert ledger.attribute("verdict") is None
    for number in range(12):
        ledger.add_event("start" if number % 2 else "opened", number=number)
    ledger.set_attribute("verdict", {"rows": [1 / 3, None, "é"]})
    again = Ledger(sqlite(tmp_path), "run")
    assert [each["number"] for each in again.events()] == list(range(12))
    assert [each["number"] for each in again.events("start")] == [1, 3, 5, 7, 9, 11]
    assert again.attribute("verdict") == {"rows": [1 / 3, None, "é"]}
    assert all(each["at"] > 1e9 for each in again.events())


def test_a_long_attribute_is_kept(ledger: Ledger) -> None:
    """A verdict with many rows, a configuration with many parameters."""
    ledger.set_attribute("verdict", {str(i): 1 / (i + 1) for i in range(5000)})
    assert len(ledger.attribute("verdict")) == 5000


def test_several_runs_share_a_database(tmp_path: Path) -> None:
    one, two = Ledger(sqlite(tmp_path), "one"), Ledger(sqlite(tmp_path), "two")
    one.record(trial(0, 0.1), GENES, VALUES)
    two.record(trial(0, 0.2), GENES, VALUES)
    one.record(trial(1, 0.3), GENES, VALUES)
    one.add_event("start")
    assert [each.value for each in one.trials()] == [0.1, 0.3]
    assert [each.value for each in two.trials()] == [0.2]
    assert two.events() == []


def test_a_run_that_must_exist(tmp_path: Path, ledger: Ledger) -> None:
    Ledger(sqlite(tmp_path), "run", must_exist=True)
    with pytest.raises(RunError, match="holds no run named other"):
        Ledger(sqlite(tmp_path), "other", must_exist=True)


def test_a_record_is_one_transaction(ledger: Ledger) -> None:
    commits: list[object] = []
    writes: list[str] = []

    def on_commit(connection: object) -> None:
        commits.append(connection)

    def on_statement(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            writes.append(f"{len(commits)} {statement.split()[2]}")

    event.listen(sqlalchemy.engine.Engine, "commit", on_commit)
    event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", on_statement)
    try:
        ledger.record(trial(0), GENES, VALUES)
    finally:
        event.remove(sqlalchemy.engine.Engine, "commit", on_commit)
        event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", on_statement)
    assert len({line.split()[0] for line in writes}) == 1, writes
    assert {line.split()[1] for line in writes} >= {"trials", "trial_params", "trial_user_attributes", "trial_values"}


KILLED = """
import os, sys
from sqlalchemy import event
import sqlalchemy
from evolve.storage.ledger import Ledger
sys.path.insert(0, sys.argv[1])
from test_ledger import GENES, VALUES, trial

def stop(*_):
    global left
    left -= 1
    if left == 0:
        os._exit(9)

for url, statement in zip(sys.argv[2::2], sys.argv[3::2]):
    if os.fork():
        os.wait()
        continue
    left = int(statement)
    ledger = Ledger(url, "run")
    ledger.record(trial(0), GENES, VALUES)
    event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", stop)
    ledger.record(trial(1, None), GENES, VALUES)
    os._exit(0)
"""


def test_a_killed_record_is_whole_or_absent(tmp_path: Path) -> None:
    """The process ends at some statement of a record, without a word to the database."""
    arguments: list[str] = []
    for statement in (3, 8, 13, 1000):
        (tmp_path / str(statement)).mkdir()
        arguments += [sqlite(tmp_path / str(statement)), str(statement)]
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    endings = []
    for url in arguments[::2]:
        trials = Ledger(url, "run").trials()
        assert trials in ([trial(0)], [trial(0), trial(1, None)])
        endings.append(len(trials))
    assert {1, 2} == set(endings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db:5432/runs", "postgresql://me:***@db:5432/runs"),
        ("mysql+pymysql://me:secret@db/runs", "mysql+pymysql://me:***@db/runs"),
        ("postgresql://db/runs?user=me&password=secret", None),
        ("postgresql://db/runs?sslpassword=secret", None),
        ("mysql://db/runs?passwd=secret", None),
        ("postgresql:/me:secret@db/runs", None),
        ("me:secret@db/runs", None),
        ("postgresql://me:secret@db:port/runs", None),
        ("sqlite:///results/a/study.db", "sqlite:///results/a/study.db"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str | None) -> None:
    assert "secret" not in hidden(url)
    if shown is not None:
        assert hidden(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "",
        "me:secret@db/runs",
        "postgresql:/me:secret@db/runs",
        "postgresql://me:secret@db:port/runs",
        "nosuch://me:secret@db/runs",
        "nosuch+driver://me:secret@db/runs",
        "postgresql+nosuch://me:secret@db/runs",
        "postgresql://me:secret@127.0.0.1:1/runs?connect_timeout=2",
        "mysql+pymysql://me:secret@127.0.0.1:1/runs",
        "sqlite:////proc/none/study.db",
        "sqlite:////",
    ],
)
def test_a_storage_that_cannot_be_used_is_a_run_error(url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as caught:
        Ledger(url, "run")
    message = str(caught.value)
    assert message.startswith("run.storage")
    assert "\n" not in message
    assert "secret" not in message


def test_a_file_that_is_no_database_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"these are my notes, not a database" * 100)
    with pytest.raises(RunError, match=r"run\.storage"):
        Ledger(sqlite(tmp_path), "run")


def test_a_ledger_that_vanishes_is_a_run_error(tmp_path: Path, ledger: Ledger) -> None:
    engine = sqlalchemy.create_engine(sqlite(tmp_path))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trials"))
    engine.dispose()
    with pytest.raises(RunError):
        ledger.record(trial(0), GENES, VALUES)


def fill(ledger: Ledger, first: int, last: int) -> None:
    for number in range(first, last):
        ledger.record(trial(number), GENES, VALUES)


def test_a_full_disk_says_so_and_costs_nothing_that_was_recorded(tmp_path: Path, ledger: Ledger) -> None:
    """SQLite meets its own bound of pages as it meets the end of a disk."""

    def bound(connection: Any, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")

    ledger.record(trial(0), GENES, VALUES)
    engine = ledger._store._engine  # type: ignore[attr-defined]
    engine.dispose()
    event.listen(engine, "connect", bound)
    with pytest.raises(RunError, match=r"^run\.storage \(.*\): database or disk is full; free disk space there, then"):
        fill(ledger, 1, 1000)
    with pytest.raises(RunError, match=r"^run\.storage \([^ ]*\): database or disk is full; free disk space") as caught:
        ledger.set_attribute("verdict", "secret" * 100_000)
    assert "secret" not in str(caught.value)
    again = Ledger(sqlite(tmp_path), "run")
    recorded = len(again.trials())
    assert 0 < recorded < 1000
    assert again.trials() == [trial(each) for each in range(recorded)]
    again.record(trial(recorded), GENES, VALUES)
    assert len(again.trials()) == recorded + 1


@pytest.mark.slow
def test_postgresql_holds_runs_as_well(postgresql: str) -> None:
    from evolve.storage.lease import Lease

    ledger = Ledger(postgresql, "run")
    written = [trial(0), trial(1, None), trial(2, 0.1, point=tuple(i / 400 for i in range(400)))]
    with Lease(postgresql, "run") as lease:
        for each in written:
            ledger.record(each, GENES, VALUES)
        ledger.add_event("start", trials=0)
        with pytest.raises(RunError, match="already driving"), Lease(postgresql, "run"):
            pass
        lease.check()
    assert Ledger(postgresql, "run").trials() == written
    assert [each["kind"] for each in ledger.events()] == ["start"]
    with Lease(postgresql, "run"):
        pass


@pytest.mark.slow
def test_a_wrong_password_is_a_run_error(postgresql: str) -> None:
    with pytest.raises(RunError) as caught:
        Ledger(postgresql.replace("secret", "geheim"), "run")
    assert "geheim" not in str(caught.value)
