"""`evolve check` times a candidate where a run would score it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evolve import check, evaluator, start
from evolve.config import SearchConfig
from evolve.setting import Setting
from evolve.trial import Evaluation
from evolve.workers import Workers

MODELS = Path(__file__).parents[2] / "tasks" / "demo" / "models"


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_check_and_run_use_one_device(monkeypatch: pytest.MonkeyPatch, gpu: bool, device: str) -> None:
    devices: list[str] = []

    class Instead:
        def __init__(self, config: SearchConfig, *, device: str, threads: int) -> None:
            devices.append(device)

        def evaluate(self, job: Any) -> Evaluation:
            seconds = {"merge": 1.0, "forward": 2.0, "other": 3.0}
            return Evaluation(SimpleNamespace(), seconds)  # type: ignore[arg-type]

    config = SearchConfig.model_validate(
        {
            "name": "run",
            "models": {"base": str(MODELS / "base"), "sources": [str(MODELS / "sort")]},
            "score": {"tasks": [{"task": "t", "metric": "acc"}]},
        }
    )
    findings: Any = SimpleNamespace(setting=Setting(config), workers=Workers(1, 2, float(gpu), 0))
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    for module in (check, evaluator):
        monkeypatch.setattr(module, "Evaluator", Instead)
    assert check.time_of_candidate(findings, 2).startswith("6.0 s a candidate")
    start.LazyExecutor(config, findings, lambda _: None)._start()
    assert devices == [device, device]
