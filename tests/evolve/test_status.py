"""`evolve status` and `evolve report` tell from a ledger alone what a run's driver wrote there."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.config import SearchConfig
from evolve.errors import RunError
from evolve.figures import Figures
from evolve.guard import sole_driver
from evolve.ledger import SEARCH_ENDED, START
from evolve.reporting import report
from evolve.status import best_of, facts, status, weights_of
from evolve.trial import Failure, Trial
from search_spaces.gene import Gene
from tasks.objective import Goal, Objective

FIGURES = Figures(Objective((Goal("t", "acc,none", 1.0, True),)))
ROOT = Path(__file__).parents[2]


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


def test_values_on_other_documents_are_said_to_be_that(config: SearchConfig) -> None:
    drawn = config.model_copy(update={"search": config.search.model_copy(update={"sample": 4})})
    told = [facts([trial(0, 0.5, 1.0)], each, FIGURES, {"t": 1.0}, driven=False)[0] for each in (config, drawn)]
    assert told[1] == told[0].removesuffix(")") + "; generations met other documents, so values compare only roughly)"


def test_a_run_at_work(config: SearchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_driver(config):
        status(config.folder)
    out = capsys.readouterr().out
    assert "driver: process" in out
    assert "rate: 3600 candidates an hour, 0:03:15 left" in out


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
    slow = [trial(i, 0.5, 3600.0 * i) for i in range(5)]
    assert (
        facts(slow, config, FIGURES, {"t": 1.0}, driven=True)[-1] == "rate: 1 candidates an hour, 8 days, 3:00:00 left"
    )


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
        assert weights_of(ledger, config, two) == {"a": 1.0, "b": 1.0}
        assert weights_of(ledger, asked, two) is None
        ledger.add_event("normalised", gaps={"a": 0.3, "b": 0.1})
        assert weights_of(ledger, asked, two) == pytest.approx({"a": 0.5, "b": 1.5})


def test_a_run_that_has_not_ended_has_no_report(config: SearchConfig) -> None:
    with pytest.raises(RunError, match="the run has not ended yet"):
        report(config.folder)


def test_reading_a_ledger_loads_neither_transformers_nor_lm_eval(config: SearchConfig) -> None:
    script = (
        "import sys; from pathlib import Path; from evolve.status import status; status(Path(sys.argv[1])); "
        "print([name for name in ('transformers', 'lm_eval', 'ray') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(config.folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
