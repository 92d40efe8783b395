"""`evolve status` and `evolve report` tell from a ledger alone what a run's driver wrote there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.config.budget import WORKING
from evolve.config.search_yaml import SearchConfig
from evolve.errors import RunError
from evolve.preparation.guard import holder_of, sole_driver
from evolve.report.figures import Figures
from evolve.report.reporting import report
from evolve.storage.ledger import SEARCH_ENDED, START
from evolve.trial import Failure, Trial
from evolve.watching.run_state import State, as_data, best_of, lines, state_of, weights_of
from evolve.watching.status import status
from search_spaces.gene import Gene
from tasks.objective import Goal, Objective

FIGURES = Figures(Objective((Goal("t", "acc,none", 1.0, True),)))
ROOT = Path(__file__).parents[3]


def trial(number: int, value: float | None, finished: float) -> Trial:
    failure = Failure("merge", "no") if value is None else None
    return Trial(number, 0, (0.5,), "d", value, 0.01, 100, failure=failure, finished=finished)


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    """A run that was begun and has five trials."""
    data: dict[str, Any] = {
        "name": "run",
        "models": {"base": "b", "sources": ["s"]},
        "score": {"tasks": [{"task": "t", "metric": "acc"}]},
        "run": {"output": str(tmp_path)},
    }
    config = SearchConfig.model_validate(data)
    with sole_driver(config) as (ledger, _):
        for i, value in enumerate((-0.4, None, -0.2, -0.3, None)):
            ledger.record(trial(i, value, 1000.0 + i), (Gene("g"),), {"g": 0.5})
    (config.folder / "search.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


def test_a_run_at_rest(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    status(config.folder)
    assert capsys.readouterr().out.splitlines() == [
        "run: 5 of 200 candidates",
        "driver: none at work",
        "best on the search documents: -20.0 ± 1.0 (candidate 2; overstated, being the best of many)",
        "failed: 2 (merge)",
    ]


def test_a_folder_of_runs_has_a_line_for_each(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    broken = config.folder.parent / "broken"
    broken.mkdir()
    (broken / "study.db").write_bytes(b"no database")
    (broken / "search.yaml").write_text("name: [")
    (config.folder.parent / "no run").mkdir()
    with sole_driver(config):
        status(config.folder.parent)
    status(config.folder.parent, as_json=True)
    *shown, data = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in shown] == ["broken", "run"]
    assert "cannot be read" in shown[0]
    assert "not valid YAML" in shown[0]
    assert "5 of 200 candidates  best -20.0 ± 1.0  at work: process" in shown[1]
    first, second = json.loads(data)
    assert set(first) == {"folder", "error"}
    assert (second["name"], second["trials"]) == ("run", 5)
    status(config.folder.parent)
    assert "stopped" in capsys.readouterr().out
    with pytest.raises(RunError, match="--watch looks at one"):
        status(config.folder.parent, every=1.0)


def test_a_search_that_has_ended(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_driver(config) as (ledger, _):
        ledger.add_event(SEARCH_ENDED, trials=5, reason="search.trials (5) is used up")
        ledger.add_event(START, trials=5)  # with a larger budget
        status(config.folder)
        assert "ended" not in capsys.readouterr().out
        ledger.add_event(SEARCH_ENDED, trials=5, reason="search.trials (5) is used up")
        status(config.folder)
    at_work = capsys.readouterr().out.splitlines()
    assert at_work[-2:] == [
        "the search has ended: search.trials (5) is used up",
        "finalists, checkpoint and report are to come",
    ]
    assert not any(line.startswith("rate") for line in at_work)
    status(config.folder)
    assert capsys.readouterr().out.splitlines()[-1].endswith("are to come; `evolve run` goes on with them")


def seen(config: SearchConfig, now: float, silence: float = 0.0) -> State:
    """The state as its own driver would see it."""
    with sole_driver(config) as (ledger, _):
        return state_of(config, ledger, holder_of(config), now, silence)


def changed(config: SearchConfig, **search: Any) -> SearchConfig:
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


def line_of(state: State, begin: str) -> str:
    return next((line for line in lines(state) if line.startswith(begin)), "")


def test_values_on_other_documents_are_said_to_be_that(config: SearchConfig) -> None:
    same, drawn = (line_of(seen(each, 0.0), "best") for each in (config, changed(config, sample=4)))
    assert drawn == same.removesuffix(")") + "; generations met other documents, so values compare only roughly)"


def test_a_run_at_work(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_driver(config):
        status(config.folder)
    out = capsys.readouterr().out
    assert "driver: process" in out
    assert "rate: 3600 candidates an hour (over the last 5)" in out
    assert "left: 0:03:15, until search.trials ends it" in out
    assert "last candidate: " in out  # it was in 1970


@pytest.mark.parametrize(
    ("budget", "left"),
    [
        ({}, "left: 0:03:15, until search.trials ends it"),
        ({"documents": 720, "hours": 1.0}, "left: 0:00:02, until search.documents ends it"),
        ({"documents": 10_000, "hours": 10 / 3600}, "left: 0:00:04, until search.hours ends it"),
        ({"documents": 10, "hours": 1.0}, "left: 0:00:00, until search.documents ends it"),
    ],
)
def test_what_is_left_goes_by_the_budget_that_ends_first(
    config: SearchConfig, budget: dict[str, Any], left: str
) -> None:
    """Of five candidates in four seconds with 500 documents, and two more seconds until now; a climb took some too."""
    with sole_driver(config) as (ledger, _):
        event = {"kind": START, "at": 1000.0, "workers": 1}
        ledger.set_attribute("event:000000", event)
        ledger.add_event("slopes", documents=budget.get("documents", 0) and 20)
    state = seen(changed(config, **budget), 1006.0)
    assert line_of(state, "left") == left
    assert as_data(state)["left"].keys() == {f"search.{name}" for name in ("trials", *budget)}


def test_workers_are_as_busy_as_their_candidates_say(config: SearchConfig) -> None:
    with sole_driver(config) as (ledger, _):
        for i, seconds in enumerate(({"total": 3.0, "forward": 2.0}, {"merge": 1.0}, {})):
            late = replace(trial(5 + i, 0.1, 2010.0 + i), seconds=seconds)
            ledger.record(late, (Gene("g"),), {"g": 0.5})
        ledger.set_attribute("event:000000", {"kind": START, "at": 1990.0})
        assert state_of(config, ledger, None, 2020.0).pace.utilisation is None  # of nobody knows how many
        ledger.set_attribute("event:000001", {"kind": START, "at": 2002.0, "workers": 2})
    state = seen(config, 2020.0)
    assert line_of(state, "utilisation").startswith("utilisation: 20 % of the time of 2 workers since this start")
    assert line_of(state, "rate") == "rate: 3600 candidates an hour (over the last 3)"
    assert line_of(state, "last candidate") == ""
    with sole_driver(config) as (ledger, _):
        nodes = [
            {"node": "", "workers": 2, "threads": 2, "gpus": 0},
            {"node": "a", "workers": 3, "threads": 2, "gpus": 0},
            {"node": "b", "workers": 1, "threads": 8, "gpus": 0.5},
        ]
        ledger.set_attribute("placement", nodes)
    state = seen(config, 2020.0)
    assert line_of(state, "utilisation").startswith("utilisation: 10 % of the time of 4 workers")
    assert [line for line in lines(state) if line.startswith("workers")] == [
        "workers: 2 starting",
        "workers: 3 on a, with 2 threads each",
        "workers: 1 on b, with 8 threads, 0.5 GPU each",
    ]
    cluster = config.model_copy(update={"run": config.run.model_copy(update={"address": "auto"})})
    assert "workers: 2 starting, or waiting for room" in lines(replace(state, config=cluster))
    assert (as_data(state)["workers"], len(as_data(state)["placement"])) == (4, 3)
    at_rest = as_data(replace(state, holder=None))
    assert (at_rest["workers"], at_rest["placement"]) == (None, [])
    many = [{"node": "this process", "workers": 1, "threads": 1, "gpus": 0}, *[nodes[1]] * 20]
    told = [line for line in lines(replace(state, placement=many)) if line.startswith("workers")]
    assert told[0] == "workers: 1 in this process, with 1 thread each"
    assert told[-1] == "workers: 39 on 13 machines more"
    assert not [line for line in lines(replace(state, holder=None)) if line.startswith(("workers", "rate", "left"))]


def test_the_rate_is_that_of_this_start(config: SearchConfig) -> None:
    with sole_driver(config) as (ledger, _):
        ledger.set_attribute("event:000000", {"kind": START, "at": 1003.5, "workers": 1})
    state = seen(config, 1010.0)
    assert line_of(state, "rate") == ""  # a single candidate has no rate
    assert state.pace.silent == 6.0


def test_the_rate_spans_whole_generations(config: SearchConfig) -> None:
    """Twelve candidates in each ten seconds, most of them recorded at once, when a race is over."""
    with sole_driver(config) as (ledger, _):
        ledger.set_attribute("event:000000", {"kind": START, "at": 2000.0, "workers": 2})
        for number in range(5, 5 + 4 * 12):
            generation, place = divmod(number - 5, 12)
            at = 2000.0 + 10 * (generation + 1) - max(0, 2 - place)
            ledger.record(replace(trial(number, 0.1, at), generation=generation), (Gene("g"),), {"g": 0.5})
            if number >= 5 + 12 + 6:
                state = state_of(config, ledger, None, at)
                assert state.pace.candidates == pytest.approx(1.2, rel=0.5), number
    assert line_of(seen(config, 2040.0), "rate") == "rate: 4320 candidates an hour (over the last 12)"


def test_hours_stand_still_until_a_worker_can_work(config: SearchConfig) -> None:
    asked = changed(config, hours=1.0)
    with sole_driver(config) as (ledger, _):
        ledger.set_attribute("event:000000", {"kind": START, "at": 3000.0, "workers": 2})
    waiting = seen(asked, 6000.0).pace.left["search.hours"]
    with sole_driver(config) as (ledger, _):
        ledger.set_attribute("event:000001", {"kind": WORKING, "at": 6000.0})
    assert seen(asked, 6000.0).pace.left["search.hours"] == waiting
    assert seen(asked, 6060.0).pace.left["search.hours"] == waiting - 60


def test_machines_read_the_same(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    status(config.folder, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["trials"], told["failures"], told["driver"], told["finished"]) == (5, {"merge": 2}, None, False)
    assert told["best"]["candidate"] == 2
    assert told["candidates_an_hour"] is None
    with sole_driver(config):
        status(config.folder, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["candidates_an_hour"] == pytest.approx(3600.0)
    assert told["driver"]["process"] == os.getpid()


def test_a_driver_that_falls_silent_is_said_to_be_that(config: SearchConfig) -> None:
    assert line_of(seen(config, 0.0, silence=41.2), "driver").endswith(", silent for 41 s")


def test_a_run_is_followed_until_it_is_over(config: SearchConfig) -> None:
    """From another process, while this one drives."""
    command = [sys.executable, "-m", "evolve", "status", str(config.folder), "--json", "--watch", "0.2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["trials"] == 5
        with sole_driver(config) as (ledger, _):
            ledger.record(trial(5, 0.5, 1010.0), (Gene("g"),), {"g": 0.5})
            states = map(json.loads, process.stdout)
            assert next(state for state in states if state["driver"])["driver"]["process"] == os.getpid()
            assert next(state for state in states if state["trials"] == 6)["best"]["candidate"] == 5
        process.send_signal(signal.SIGINT)  # how one stops looking is no failure
        assert process.wait(timeout=60) == 0


def test_a_run_on_a_server(config: SearchConfig, postgresql: str, capsys: pytest.CaptureFixture[str]) -> None:
    """While it goes on, by its URL alone."""
    run = config.run.model_copy(update={"storage": postgresql})
    on_server = config.model_copy(update={"name": "watched", "run": run})  # others share the server
    file = config.folder.parent / "mine.yaml"
    file.write_text(yaml.safe_dump(on_server.model_dump(mode="json")))
    with sole_driver(on_server) as (ledger, _):
        ledger.record(trial(0, 0.5, 1010.0), (Gene("g"),), {"g": 0.5})
        status(file, as_json=True)
        told = json.loads(capsys.readouterr().out)
    assert (told["trials"], told["driver"]["process"]) == (1, os.getpid())


def test_a_ledger_of_somebody_else_steers_no_terminal(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_driver(config) as (ledger, _):
        ledger.add_event(SEARCH_ENDED, trials=5, reason="\x1b[2J\x07 none")
        ledger.set_attribute("placement", [{"node": "a"}, {}])
        status(config.folder)
    out = capsys.readouterr().out
    assert "none" in out
    assert "\x1b" not in out


def test_a_run_in_a_database_needs_no_folder(
    config: SearchConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = config.model_dump(mode="json")
    data["run"] = {"output": str(tmp_path / "elsewhere"), "storage": f"sqlite:///{config.folder / 'study.db'}"}
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(data))
    status(file)
    assert capsys.readouterr().out.startswith("run: 5 of 200 candidates\n")
    data["run"]["storage"] = None
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(RunError, match="no run was begun here"):
        status(file)


def test_a_run_that_can_only_be_read(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    status(config.folder)
    before = capsys.readouterr().out
    # Not by permissions, which do not bind root.
    storage = f"sqlite:///file:{config.folder / 'study.db'}?mode=ro&uri=true"
    data = config.model_copy(update={"run": config.run.model_copy(update={"storage": storage})})
    (config.folder / "search.yaml").write_text(yaml.safe_dump(data.model_dump(mode="json")))
    for table in ("yes", "no"):
        status(config.folder)
        assert capsys.readouterr().out == before, f"lease table: {table}"
        with contextlib.closing(sqlite3.connect(config.folder / "study.db")) as database:
            database.execute("DROP TABLE IF EXISTS evolve_leases")


def test_days_are_days(config: SearchConfig) -> None:
    assert line_of(seen(changed(config, hours=200.0), 1000.0), "left").startswith("left: 0:03:15")
    assert line_of(seen(changed(config, hours=200.0, trials=10**7), 1000.0), "left").startswith("left: 8 days, 8:00:00")


def test_the_best_is_one_that_was_scored_whole_by_the_weights_of_now(config: SearchConfig) -> None:
    def scored(number: int, value: float, a: float, b: float, whole: bool = True) -> Trial:
        return replace(trial(number, value, 0.0), parts={"a": a, "b": b}, whole=whole)

    # The first one's value was made by other weights, and the last one left a race early.
    trials = [scored(0, 0.9, 0.9, 0.1), scored(1, 0.6, 0.3, 0.7), scored(2, 0.99, 0.9, 0.9, whole=False)]
    best = best_of(trials, {"a": 0.1, "b": 1.9})
    assert best is not None
    assert best.id == 1
    first = best_of(trials, {"a": 1.0, "b": 1.0})
    assert first is not None
    assert first.id == 0
    assert best_of(trials, None) is None


def test_normalised_weights_are_those_of_the_ledger(config: SearchConfig) -> None:
    score = config.score.model_copy(update={"normalize": True})
    asked = config.model_copy(update={"score": score})
    two = Figures(Objective((Goal("a", "acc,none", 1.0, True), Goal("b", "acc,none", 1.0, True))))
    with sole_driver(config) as (ledger, _):
        assert weights_of(ledger.events(), config, two) == {"a": 1.0, "b": 1.0}
        assert weights_of(ledger.events(), asked, two) is None
        ledger.add_event("normalised", gaps={"a": 0.3, "b": 0.1})
        assert weights_of(ledger.events(), asked, two) == pytest.approx({"a": 0.5, "b": 1.5})


def test_a_run_that_has_not_ended_has_no_report(config: SearchConfig) -> None:
    with pytest.raises(RunError, match="the run has not ended yet"):
        report(config.folder)


def test_reading_a_ledger_loads_neither_transformers_nor_lm_eval(config: SearchConfig) -> None:
    script = (
        "import sys; from pathlib import Path; from evolve.watching.status import status; status(Path(sys.argv[1])); "
        "print([name for name in ('transformers', 'lm_eval', 'ray') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(config.folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_looking_at_a_run_makes_nothing_in_databases_of_others(config: SearchConfig, tmp_path: Path) -> None:
    other, gone, text = tmp_path / "other.db", tmp_path / "gone.db", tmp_path / "text"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (a INTEGER)")
    text.write_text("no database, but mine")
    before = {path: path.read_bytes() for path in (other, text)}
    for path, problem in ((other, "holds no run named run"), (gone, "holds no run"), (text, "not a database")):
        data = config.model_dump(mode="json")
        data["run"]["storage"] = f"sqlite:///{path}"
        (config.folder / "search.yaml").write_text(yaml.safe_dump(data))
        for look in (status, report):
            with pytest.raises(RunError, match=problem):
                look(config.folder)
    assert {path: path.read_bytes() for path in (other, text)} == before
    assert not gone.exists()
