"""`evolve check` times a candidate where a run would score it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evolve.config.search_yaml import SearchConfig
from evolve.preparation import check
from evolve.preparation.setting import Setting
from evolve.trial import Evaluation, Job
from evolve.workers import evaluator, start
from evolve.workers.sizing import Workers

MODELS = Path(__file__).parents[3] / "tasks" / "demo" / "models"


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_check_and_run_use_one_device(monkeypatch: pytest.MonkeyPatch, gpu: bool, device: str) -> None:
    devices: list[str] = []
    jobs: list[Job] = []

    class Instead:
        def __init__(self, config: SearchConfig, *, device: str, threads: int) -> None:
            devices.append(device)

        def evaluate(self, job: Job) -> Evaluation:
            jobs.append(job)
            seconds = {"merge": 1.0, "forward": 2.0, "other": 3.0}
            return Evaluation(SimpleNamespace(), seconds)  # type: ignore[arg-type]

    config = SearchConfig.model_validate(
        {
            "name": "run",
            "models": {"base": str(MODELS / "base"), "sources": [str(MODELS / "sort")]},
            "score": {
                "tasks": [{"task": "demo_sort", "metric": "exact_match"}],
                "include": [str(MODELS.parent)],
                "documents": {"search": 60, "selection": 40, "report": 50},
            },
            "search": {"trials": 100, "sample": 12, "finalists": 3},
        }
    )
    findings: Any = SimpleNamespace(setting=Setting(config), workers=Workers(1, 2, float(gpu), 0))
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    for module in (check, evaluator):
        monkeypatch.setattr(module, "Evaluator", Instead)
    seconds = check.seconds_of_candidate(findings, 2)
    assert seconds == 6.0
    assert {task: len(ids) for task, ids in (jobs[0].only or {}).items()} == {"demo_sort": 12}
    # Half a second a document: 100 candidates of 12; up to 18 steps through 60 documents at 4.5 times as much; the end.
    plain = check.documents_of_end(findings.setting) - 3 * 40 - 50
    assert plain % 90 == 0
    assert plain >= 6 * 90
    told = check.time_of_run(findings, seconds)
    assert told.startswith(
        "6.0 s a candidate (12 documents, merge not counted); at most about 10 min for 100 candidates, "
    )
    assert "6 min for gradients" in told
    assert told.endswith(f"{(plain + 170) / 120:.0f} min for finalists and the report")
    start.LazyExecutor(config, findings, lambda _: None)._start()
    assert devices == [device, device]


def test_a_time_limit_that_is_near_is_warned_of() -> None:
    assert check.tight(None, 1e6) == check.tight(1.0, 20.0) == []
    (said,) = check.tight(0.5, 20.0)
    assert "run.candidate_minutes (0.5)" in said
    assert "take 20 s here" in said
