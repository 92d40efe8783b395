"""Every kind of space and method runs from the configuration to the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evolve.run import run
from tests.end_to_end.conftest import DEMO, Config

CASES: dict[str, dict[str, Any]] = {
    "linear-per-layer": {"space": {"method": "linear", "layers": "per_layer"}},
    "dare-smooth": {"space": {"method": "dare_ties", "layers": {"smooth": 2}, "modules": ["mlp"]}},
    "slerp-pairs": {"space": {"method": "slerp", "layers": 2}},
    "method-is-a-gene": {
        "space": {"method": ["ties", "dare_linear", "passthrough"], "parameters": {"normalize": [True, False]}},
        "search": {"trials": 12, "optimizer": "tpe", "population": 4, "finalists": 1},
    },
    "few-shot-random": {
        "score": {"tasks": [{"task": "pick_shots", "metric": "acc", "num_fewshot": 2, "weight": 3.0}]},
        "search": {"trials": 6, "optimizer": "random", "finalists": 1},
    },
}


@pytest.fixture
def include(tmp_path: Path) -> str:
    """A task folder with demo_pick as one that may have few-shot examples."""
    text = (DEMO / "demo_pick.yaml").read_text(encoding="utf-8")
    text = text.replace("task: demo_pick", "task: pick_shots").replace("num_fewshot: 0\n", "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pick_shots.yaml").write_text(text.replace("tasks/demo/", f"{DEMO}/"), encoding="utf-8")
    return str(tmp_path / "mine")


@pytest.mark.parametrize("name", CASES)
def test_runs_to_the_report(
    name: str,
    config: Config,
    include: str,
    search_file: Callable[[Config], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config["name"] = name
    config["score"]["include"].append(include)
    config["score"]["documents"] = {"search": 4, "selection": 4, "report": 6}
    config["search"] = {"trials": 6, "population": 3, "finalists": 1}
    for section, changes in CASES[name].items():
        config[section] = changes if section == "space" else {**config[section], **changes}
    run(search_file(config))
    folder = Path(config["run"]["output"]) / name
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "**winner**" in report
    assert "none failed" in report
    assert "points." in capsys.readouterr().out
    if name == "few-shot-random":
        assert "set aside" in report
