"""`evolve run` from beginning to end, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from engine.checkpoint import open_checkpoint
from engine.merge import merge
from engine.plan import plan
from engine.recipe import Recipe
from evolve.config.search_yaml import load_config
from evolve.errors import RunError
from evolve.preparation.setting import Setting
from evolve.search.study import SEARCH
from evolve.storage.items import Items
from evolve.storage.ledger import Ledger
from evolve.trial import Job, Trial
from evolve.workers.remembering import Keys, score_of
from tasks.objective import Measures
from tests.end_to_end.conftest import DEMO, ROOT, Config, command, environment, evolve

SearchFile = Callable[[Config], Path]


def trials_of(folder: Path) -> list[dict[str, str]]:
    """The trials without what the clock says."""
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def finished(config: Config, search_file: SearchFile, tmp_path: Path) -> Path:
    done = evolve("run", search_file(config))
    assert done.returncode == 0, done.stderr
    return tmp_path / "results" / "small"


def test_hours_that_bear_no_search_are_told_at_the_end(config: Config, search_file: SearchFile) -> None:
    config["search"]["hours"] = 1e-6
    done = evolve("run", search_file(config))
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("warning: search.hours (1e-06) are over")
    assert last.endswith("nothing was searched; give it more")


def test_a_run_leaves_everything_and_the_report_is_true(finished: Path, tmp_path: Path) -> None:
    for name in ("search.yaml", "study.db", "best.yaml", "report.md", "trials.csv", "environment.json"):
        assert (finished / name).stat().st_size > 0
    assert len(trials_of(finished)) == 20
    documents = {name: json.loads((finished / "documents" / f"{name}.json").read_text()) for name in
                 ("search", "selection", "report")}  # fmt: skip
    for task in ("demo_reverse", "demo_pick"):
        sets = [set(documents[name][task]) for name in documents]
        assert [len(each) for each in sets] == [8, 16, 32]
        assert len(set.union(*sets)) == 56

    recipe = Recipe.from_yaml((finished / "best.yaml").read_text())
    memory = dict(merge(plan(recipe, {name: open_checkpoint(name) for name in recipe.references})))
    written = load_file(finished / "checkpoint" / "model.safetensors")
    assert memory.keys() == written.keys()
    assert all(torch.equal(memory[name], written[name]) for name in memory)

    stock(finished, tmp_path)

    again = evolve("run", finished / "search.yaml")
    assert again.returncode == 0, again.stderr
    assert "worker" not in again.stdout
    assert "nothing was left to score: the run had ended" in again.stdout

    anew = evolve("report", finished, "--weights", "demo_pick=3", "--objective", "metric=1,loglikelihood=0.1", "--all")
    assert anew.returncode == 0, anew.stderr
    assert len([line for line in anew.stdout.splitlines() if re.search(r" \([+-]\d+\.\d+ to ", line)]) == len(
        {trial["digest"] for trial in trials_of(finished)}
    )
    assert ", the winner" in anew.stdout

    moved = tmp_path / "elsewhere" / "small"
    shutil.copytree(finished, moved)
    for words in (("status", moved), ("report", moved)):
        told = evolve(*words, cwd=tmp_path)
        assert told.returncode == 0, told.stderr
    assert (moved / "report.md").read_text().splitlines()[:10] == (finished / "report.md").read_text().splitlines()[:10]


def winner_on_report(finished: Path) -> Measures:
    """What the item database holds of the written checkpoint."""
    keys = Keys(Setting(load_config(finished / "search.yaml")))
    recipe = Recipe.from_yaml((finished / "best.yaml").read_text())
    job = Job(key=f"checkpoint of {recipe.digest}", documents="report", folder=str(finished / "checkpoint"))
    known = Items(finished / "items", owned=False).known(keys.candidate(job))
    return score_of(keys.digests("report"), known).measures


def stock(finished: Path, tmp_path: Path) -> None:
    """The winner's row by the report's own lm_eval command: the same metrics, the same verdict on each document."""
    report = (finished / "report.md").read_text(encoding="utf-8")
    command = report.split("```\nlm_eval ")[1].split("```")[0].replace("\\\n", " ")
    words = shlex.split(command.replace("--output_path checked", f"--output_path {tmp_path / 'stock'}"))
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, "--device", "cpu"],
        cwd=DEMO.parents[1],
        env=environment() | {"HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(next((tmp_path / "stock").rglob("results_*.json")).read_text())["results"]
    ours = winner_on_report(finished)
    for task, metric in (("demo_reverse", "exact_match"), ("demo_pick", "acc")):
        samples = [
            json.loads(line)
            for line in next((tmp_path / "stock").rglob(f"samples_{task}_*.jsonl")).read_text().splitlines()
        ]
        verdicts = {sample["doc_id"]: float(sample[metric]) for sample in samples}
        assert len(verdicts) == 32
        assert ours[task][f"{metric},none"] == verdicts
        winner = next(line for line in (finished / "report.md").read_text().splitlines() if "**winner**" in line)
        assert f"{100 * results[task][f'{metric},none']:.1f}" in winner


def test_two_workers_on_ray_give_the_same_trials(
    finished: Path, config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    config["name"], config["run"]["workers"] = "two", 2
    done = evolve("run", search_file(config))
    assert done.returncode == 0, done.stderr
    assert "2 workers" in done.stdout
    assert trials_of(tmp_path / "results" / "two") == trials_of(finished)
    assert (tmp_path / "results" / "two" / "best.yaml").read_text() == (finished / "best.yaml").read_text()


def test_a_larger_budget_goes_on_and_says_that_the_report_was_open(
    finished: Path, config: Config, search_file: SearchFile
) -> None:
    before = trials_of(finished)
    config["search"]["trials"] = 24
    done = evolve("run", search_file(config))
    assert done.returncode == 0, done.stderr
    assert trials_of(finished)[:20] == before
    assert len(trials_of(finished)) == 24
    assert "had been opened before, after 20 trials" in (finished / "report.md").read_text()


def test_another_configuration_is_refused_by_its_keys(finished: Path, config: Config, search_file: SearchFile) -> None:
    config["space"]["layers"] = 3
    config["score"]["documents"]["search"] = 9
    done = evolve("run", search_file(config))
    assert done.returncode == 2
    assert "space.layers (was 2, is 3)" in done.stderr
    assert "score.documents.search (was 8, is 9)" in done.stderr
    assert "Traceback" not in done.stderr


def test_changed_weights_are_refused(config: Config, search_file: SearchFile, tmp_path: Path) -> None:
    mine = tmp_path / "sort"
    shutil.copytree(DEMO / "models" / "sort", mine)
    config["models"]["sources"][1] = str(mine)
    config["search"]["trials"] = 4
    assert evolve("run", search_file(config)).returncode == 0
    shutil.copyfile(DEMO / "models" / "second" / "model.safetensors", mine / "model.safetensors")
    done = evolve("run", search_file(config))
    assert done.returncode == 2
    assert "models.content" in done.stderr


def test_a_resolved_configuration_is_a_configuration(finished: Path) -> None:
    resolved = yaml.safe_load((finished / "search.yaml").read_text())
    assert resolved["search"]["population"] == 4
    assert os.path.isabs(resolved["models"]["base"])


@pytest.mark.slow
def test_a_search_without_generations_goes_on_where_it_was_killed(
    config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    config["search"] |= {"asynchronous": True, "trials": 30}
    config["run"]["workers"] = 2
    file, ledger = search_file(config), tmp_path / "results" / "small" / "study.db"
    run = subprocess.Popen(command("run", file), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while sum(trial.origin == SEARCH for trial in trials_in(ledger)) < 4:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        run.kill()
        run.wait()
    before = trials_in(ledger)
    done = evolve("run", file)
    assert done.returncode == 0, done.stderr
    trials = trials_in(ledger)
    assert trials[: len(before)] == before
    assert [trial.id for trial in trials] == list(range(30))
    assert "asynchronous" in (ledger.parent / "report.md").read_text()


def trials_in(ledger: Path) -> list[Trial]:
    """What is on record, if anything is yet."""
    try:
        return Ledger(f"sqlite:///{ledger}", "small", must_exist=True).trials()
    except RunError:
        return []
