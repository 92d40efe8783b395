"""The course of a search by its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolve.config.budget import Budget
from evolve.config.search_yaml import Search, SearchConfig
from evolve.preparation.course import draws_of, over_of
from evolve.preparation.setting import Setting
from evolve.search.study import Study
from evolve.storage.ledger import Ledger
from evolve.watching.progress import ProgressLog

DEMO = Path(__file__).parents[3] / "tasks" / "demo"


def setting(**search: Any) -> Setting:
    data = {
        "name": "small",
        "models": {"base": str(DEMO / "models" / "base"), "sources": [str(DEMO / "models" / "sort")]},
        "score": {
            "tasks": [{"task": "demo_sort", "metric": "exact_match"}],
            "include": [str(DEMO)],
            "documents": {"search": 8, "selection": 8, "report": 8},
        },
        "search": search,
    }
    return Setting(SearchConfig.model_validate(data))


def test_a_search_that_goes_on_counts_what_was_asked_when_it_might_end(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'study.db'}", "run")
    for documents in (100, 20):
        ledger.add_event("worth", lead=-0.1, error=0.01, documents=documents)
    made = setting(stop_early=False)
    executor: Any = None  # nothing is scored
    study = Study(
        made.space,
        executor,
        ledger,
        Budget.of(Search(documents=50), [], []),
        made.objective,
        draws_of(made),
        watcher=ProgressLog(),
        check=lambda: None,
    )
    over = over_of(made, study, len(ledger.events("worth")))
    assert not over()
    assert study.documents == 120
    assert len(ledger.events("worth")) == 2


@pytest.mark.parametrize("race", [True, False])
def test_a_race_has_several_chunks(race: bool) -> None:
    made = setting(race=race)
    assert draws_of(made).raced is race
