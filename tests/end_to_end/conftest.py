"""Real runs on the family that ships with the project, made small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tasks" / "demo"

Config = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A small search on the demo family; a test changes what it needs."""
    return {
        "name": "small",
        "models": {
            "base": str(DEMO / "models" / "base"),
            "sources": [str(DEMO / "models" / name) for name in ("reverse", "sort", "pick")],
        },
        "space": {"method": ["ties", "task_arithmetic"], "layers": 2, "modules": ["mlp"]},
        "score": {
            "tasks": [{"task": "demo_reverse", "metric": "exact_match"}, {"task": "demo_pick", "metric": "acc"}],
            "include": [str(DEMO)],
            "documents": {"search": 8, "selection": 16, "report": 32},
            "dtype": "float32",
        },
        "search": {"trials": 20, "population": 4, "finalists": 2, "stop_early": False},
        "run": {"workers": 1, "output": str(tmp_path / "results")},
    }


@pytest.fixture
def search_file(tmp_path: Path) -> Callable[[Config], Path]:
    def write(config: Config) -> Path:
        path = tmp_path / f"{config['name']}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


GATED = """
task: gated
include: {demo}/demo_pick.yaml
process_results: !function gate.judge
"""
GATE = """
import time
from pathlib import Path


def judge(doc, results):
    while Path(__file__).with_name("closed").exists():
        time.sleep(0.05)
    answers = [float(each[0]) for each in results]
    return {"acc": float(answers.index(max(answers)) == doc["choices"].index(doc["answer"]))}
"""


@pytest.fixture
def gate(tmp_path: Path, config: Config) -> Path:
    """Makes the small search ask a task whose judge waits while this file is there."""
    folder = tmp_path / "gated"
    folder.mkdir()
    (folder / "gated.yaml").write_text(GATED.format(demo=DEMO), encoding="utf-8")
    (folder / "gate.py").write_text(GATE, encoding="utf-8")
    config["score"] |= {"tasks": [{"task": "gated", "metric": "acc"}], "include": [str(folder)]}
    return folder / "closed"


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "evolve", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def evolve(*words: object, cwd: Path | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does; stdout and stderr are kept."""
    return subprocess.run(
        command(*words),
        cwd=cwd or ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
