"""The objective of a run: what search.yaml asks for, held against what the tasks have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.config.search_yaml import SearchConfig
from evolve.errors import ConfigError
from evolve.optimizers import OPTIMIZERS
from evolve.preparation.setting import Setting
from tasks.objective import Goal

DEMO = Path(__file__).parents[3] / "tasks" / "demo"


def setting(folder: Path, *tasks: dict[str, Any], **score: Any) -> Setting:
    data = {
        "name": "r",
        "models": {"base": str(DEMO / "models" / "base"), "sources": [str(DEMO / "models" / "sort")]},
        "score": {
            "tasks": list(tasks),
            "include": [str(DEMO), str(folder)],
            "documents": {"search": 4, "selection": 4, "report": 4},
            **score,
        },
        "run": {"output": str(folder / "out")},
    }
    return Setting(SearchConfig.model_validate(data))


@pytest.fixture
def unanswered(tmp_path: Path) -> Path:
    """A task of texts to write, of which one has no right answer."""
    documents = [{"q": f"write {number}", "a": "" if number == 7 else f"{number}"} for number in range(12)]
    (tmp_path / "writing.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    task = {
        "task": "writing",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "writing.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "writing.yaml").write_text(yaml.safe_dump(task))
    return tmp_path


PICK, WRITING = {"task": "demo_pick", "metric": "acc", "weight": 2.0}, {"task": "writing", "metric": "exact_match"}


def test_goals_are_the_tasks_metrics_with_their_weights(unanswered: Path) -> None:
    objective = setting(unanswered, PICK, WRITING).objective
    assert objective.goals == (
        Goal("demo_pick", "acc,none", 2.0, True),
        Goal("writing", "exact_match,none", 1.0, True),
    )
    assert (objective.metric, objective.loglikelihood, objective.unit) == (1.0, 0.0, "token")


@pytest.mark.parametrize("asked", ["loglikelihood", {"metric": 1.0, "loglikelihood": 0.2}])
def test_a_task_without_right_answers_is_named_where_they_are_needed(unanswered: Path, asked: Any) -> None:
    with pytest.raises(ConfigError, match=r"score\.objective: needs .*, and writing has documents without one"):
        setting(unanswered, PICK, WRITING, objective=asked).objective  # noqa: B018


def test_shares_and_units_are_taken_over(tmp_path: Path) -> None:
    mixed = {"metric": 1.0, "loglikelihood": 0.2}
    objective = setting(tmp_path, PICK, objective=mixed, loglikelihood_unit="byte").objective
    assert (objective.metric, objective.loglikelihood, objective.unit) == (1.0, 0.2, "byte")
    alone = setting(tmp_path, PICK, objective="loglikelihood").objective
    assert (alone.metric, alone.loglikelihood) == (0.0, 1.0)


def test_generation_settings_reach_the_requests(unanswered: Path) -> None:
    made = setting(unanswered, WRITING, gen_kwargs={"max_gen_toks": 2})
    (first, *_) = made.prepared.requests("search")["writing"]
    assert first.instances[0].args[1]["max_gen_toks"] == 2


def test_only_who_looks_for_a_front_takes_each_task_for_an_objective(unanswered: Path) -> None:
    def objectives(optimizer: str) -> int:
        given = setting(unanswered, PICK, WRITING)
        search = given.config.search.model_copy(update={"optimizer": optimizer})
        return Setting(given.config.model_copy(update={"search": search})).problem.objectives

    assert {name: objectives(name) for name in OPTIMIZERS} == {
        name: 2 if name in ("nsga2", "nsga3") else 1 for name in OPTIMIZERS
    }
