"""The first step on the cluster finds the environment, or says in one line what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from evolve.command import INTERRUPTED, SUBMITTED, how_to_go_on
from evolve.submission import job_start

STEP = str(job_start.__file__)


def start(*words: str, cwd: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, STEP, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A Python without `evolve`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return str(tmp_path / "bare/bin/python")


def test_a_python_without_evolve_is_told(tmp_path: Path, bare: str) -> None:
    done = start("1.0", "job", cwd=tmp_path, python=bare)
    assert done.returncode == 2
    assert done.stdout.startswith(f"error: environment ({bare} on the cluster): merge-evolve is not installed in it;")
    assert len(done.stdout.splitlines()) == 1


def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = start("1.0", "/nowhere/bin/python", cwd=tmp_path)
    assert done.returncode == 2
    assert "(/nowhere/bin/python on the cluster): it cannot be run (No such file or directory)" in done.stdout


def test_the_workers_python_is_that_of_the_raylet_above(tmp_path: Path, bare: str) -> None:
    words = (sys.executable, STEP, "1.0", "cluster", f"--python_worker_command={bare} worker.py")
    above = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:5]))"
    done = subprocess.run(
        [sys.executable, "-c", above, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout.startswith(f"error: environment ({bare} on the cluster): merge-evolve is not installed")


def test_another_version_is_said_and_the_run_begins(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text("name: [")
    done = start("0.0.7", "job", cwd=tmp_path)
    here = metadata.version("merge-evolve")
    assert f"warning: merge-evolve is {here} on the cluster, 0.0.7 where it was submitted" in done.stdout
    assert done.returncode == 2
    assert "search.yaml" in done.stderr  # what `evolve run` says of it


def test_another_environment_is_the_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(job_start.SETTINGS, '{"runtime_env": {"working_dir": "gcs://x.zip"}, "metadata": {}}')
    job_start.use_for_workers("/opt/merging/bin/python")
    assert '"py_executable": "/opt/merging/bin/python"' in os.environ[job_start.SETTINGS]
    assert '"working_dir": "gcs://x.zip"' in os.environ[job_start.SETTINGS]


def test_the_run_knows_that_it_was_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert how_to_go_on() == INTERRUPTED
    (tmp_path / "evolve").mkdir()  # in place of the program, in the working folder
    (tmp_path / "evolve/__init__.py").touch()
    (tmp_path / "evolve/__main__.py").write_text(f"import os; print(os.environ[{SUBMITTED!r}])")
    done = start("1.0", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv(SUBMITTED, done.stdout.splitlines()[-1])
    assert "`evolve submit` of the same search goes on" in how_to_go_on()
