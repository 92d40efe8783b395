"""A group's weight among its tasks, as lm-eval would average them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import BenchmarkRefused, TaskError
from tasks.prepared import Prepared, prepare, prepare_all
from tasks.spec import PromptSettings, Sizes, TaskSpec

MEAN = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
TEXT = {"doc_to_text": "q", "doc_to_target": "a", "metric_list": MEAN}


@pytest.fixture
def grouped(add_task: Callable[..., Path], tokenizer: Any) -> Callable[..., Prepared]:
    """Tasks of 30 and 10 documents as the group `both`, with these settings of the group's."""

    def build(limit: int | None = None, **settings: Any) -> Prepared:
        for name, count in (("large", 30), ("small", 10)):
            folder = add_task(name, [{"q": f"{name} {number}", "a": "x"} for number in range(count)], **TEXT)
        (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["large", "small"], **settings}))
        return prepare_all(
            [TaskSpec("both", weight=2.0)], include=[folder], limit=limit, tokenizer=tokenizer, prompt=PromptSettings()
        )

    return build


@pytest.mark.parametrize(
    ("averaged", "limit", "weights"),
    [
        (None, None, [1.0, 1.0]),
        ([{"metric": "exact_match"}], None, [1.5, 0.5]),
        ([{"metric": "exact_match"}], 20, [4 / 3, 2 / 3]),
        ([{"metric": "exact_match", "weight_by_size": False}], None, [1.0, 1.0]),
    ],
)
def test_parts(grouped: Callable[..., Prepared], averaged: Any, limit: int | None, weights: list[float]) -> None:
    settings = {"aggregate_metric_list": averaged} if averaged else {}
    goals = grouped(limit, **settings).objective_goals
    assert [goal.task for goal in goals] == ["large", "small"]
    assert [goal.weight for goal in goals] == pytest.approx(weights)


def search(folder: Path, tokenizer: Any, *specs: TaskSpec) -> Prepared:
    return prepare(
        specs, include=[folder], sizes=Sizes(2, 2, 2), seed=0, tokenizer=tokenizer, prompt=PromptSettings(),
        allow_benchmarks=False,
    )  # fmt: skip


def test_a_metric_that_not_all_have(folder: Path, tokenizer: Any) -> None:
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["pick", "write"]}))
    with pytest.raises(TaskError, match="task 'write': has no metric 'acc'"):
        search(folder, tokenizer, TaskSpec("both", "acc"))


def test_a_task_that_is_named_beside_its_group(folder: Path, tokenizer: Any) -> None:
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["write_shots", "write"]}))
    with pytest.raises(TaskError, match="task 'write': is asked twice, also in 'both'"):
        search(folder, tokenizer, TaskSpec("write", "exact_match"), TaskSpec("both", "exact_match"))


def test_a_benchmark_within_a_group(folder: Path, tokenizer: Any) -> None:
    config = yaml.safe_load((folder / "pick.yaml").read_text()) | {"task": "mmlu_anatomy", "dataset_path": "no/where"}
    (folder / "other.yaml").write_text(yaml.safe_dump(config))
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["pick", "mmlu_anatomy"]}))
    with pytest.raises(BenchmarkRefused, match="task 'mmlu_anatomy': its name"):
        search(folder, tokenizer, TaskSpec("both", "acc"))
