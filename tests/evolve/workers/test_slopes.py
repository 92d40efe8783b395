"""Slopes of a recipe's weights are the derivatives of the loss, and the module is left as it was."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.derivative import derivative
from engine.recipe import Recipe
from evolve.config.search_yaml import SearchConfig
from evolve.trial import Failure, Job, Slopes
from evolve.workers import slopes
from evolve.workers.evaluator import Evaluator
from tasks.batch import Batch
from tasks.memory import Allowance
from tasks.slope import Answered
from tasks.spec import SMALLEST

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, REVERSE, SORT = (str(DEMO / "models" / name) for name in ("base", "reverse", "sort"))
EMBEDDING = "model.embed_tokens.weight"


def config(**score: Any) -> SearchConfig:
    tasks = [{"task": "demo_reverse", "metric": "exact_match"}, {"task": "demo_pick", "metric": "acc", "weight": 2.0}]
    return SearchConfig.model_validate(
        {
            "name": "small",
            "models": {"base": BASE, "sources": [REVERSE, SORT]},
            "score": {
                "tasks": tasks,
                "include": [str(DEMO)],
                "documents": {"search": 6, "selection": 6, "report": 6},
                "dtype": "float32",
                **score,
            },
        }
    )


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(config())


def recipe(method: str, weights: tuple[float, float] = (0.41, 0.73), **shared: Any) -> Recipe:
    density = {} if method in ("linear", "task_arithmetic") else {"density": 0.6}
    return Recipe.model_validate(
        {
            "merge_method": method,
            **({} if method == "linear" else {"base_model": BASE}),
            "models": [
                {"model": model, "parameters": {"weight": [{"filter": "mlp", "value": w}, {"value": 0.3}], **density}}
                for model, w in zip((REVERSE, SORT), weights, strict=True)
            ],
            "parameters": shared,
            "dtype": "float32",
            "out_dtype": "float32",
        }
    )  # fmt: skip


def found(evaluator: Evaluator, made: Recipe, **keywords: Any) -> Slopes:
    evaluation = evaluator.evaluate(Job("a", "search", recipe=made, slopes=True, **keywords))
    assert evaluation.slopes is not None, evaluation.outcome
    return evaluation.slopes


def of_mlp(slopes: Slopes, place: int) -> float:
    return sum(each["weight"][place] for name, each in slopes.by.items() if "mlp" in name)


STEP = 0.01  # far enough for float32, near enough for a straight line


@pytest.mark.parametrize(
    ("method", "shared"),
    [("task_arithmetic", {}), ("linear", {"normalize": True}), ("dare_linear", {"normalize": True, "lambda": 0.8})],
)
def test_slopes_are_the_differences_of_the_loss(evaluator: Evaluator, method: str, shared: dict[str, Any]) -> None:
    """The weights of one source in all MLPs moved at once."""
    slopes = found(evaluator, recipe(method, **shared))
    for place in range(2):
        there = [0.41, 0.73]
        values = []
        for sign in (1, -1):
            there[place] = (0.41, 0.73)[place] + sign * STEP
            values.append(found(evaluator, recipe(method, (there[0], there[1]), **shared)).value)
        assert of_mlp(slopes, place) == pytest.approx((values[0] - values[1]) / (2 * STEP), rel=0.03, abs=1e-3)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "task_arithmetic"])
def test_the_slope_of_a_scale_is_the_difference_of_the_loss(evaluator: Evaluator, method: str) -> None:
    """No scale changes what is kept and which signs are elected, as weights do."""
    slopes = found(evaluator, recipe(method))
    values = [found(evaluator, recipe(method, **{"lambda": 1 + sign * STEP})).value for sign in (1, -1)]
    total = sum(each["lambda"][0] for each in slopes.by.values())
    assert total == pytest.approx((values[0] - values[1]) / (2 * STEP), rel=0.03, abs=1e-3)


def test_slopes_are_weighed_as_the_job_says(evaluator: Evaluator) -> None:
    made = recipe("task_arithmetic")
    only = [found(evaluator, made, only={task: (each,)}) for task, each in one_of_each(evaluator).items()]
    both = {task: (each,) for task, each in one_of_each(evaluator).items()}
    weighed = found(evaluator, made, only=both, weights={"demo_reverse": 5.0, "demo_pick": 3.0})
    assert weighed.value == pytest.approx((5 * only[0].value + 3 * only[1].value) / 8, abs=1e-6)
    configured = found(evaluator, made, only=both)
    assert configured.value == pytest.approx((only[0].value + 2 * only[1].value) / 3, abs=1e-6)
    slopes = [of_mlp(each, 0) for each in (*only, weighed)]
    assert slopes[2] == pytest.approx((5 * slopes[0] + 3 * slopes[1]) / 8, rel=1e-3, abs=1e-6)


def one_of_each(evaluator: Evaluator) -> dict[str, int]:
    requests = evaluator._setting.prepared.requests("search")
    return {task: requests[task][0].id for task in ("demo_reverse", "demo_pick")}


@pytest.mark.parametrize("unit", ["token", "byte"])
def test_the_value_of_a_loglikelihood_is_the_objectives(unit: str) -> None:
    evaluator = Evaluator(config(objective="loglikelihood", loglikelihood_unit=unit))
    made = recipe("task_arithmetic")
    score = evaluator.evaluate(Job("a", "search", recipe=made)).outcome
    assert not isinstance(score, Failure)
    objective = evaluator._setting.objective
    assert objective.unit == unit
    slopes = found(evaluator, made)
    assert slopes.value == pytest.approx(objective.value(score.measures), abs=1e-5)
    assert slopes.documents == 12
    moved = [found(evaluator, recipe("task_arithmetic", (0.41 + sign * STEP, 0.73))).value for sign in (1, -1)]
    assert of_mlp(slopes, 0) == pytest.approx((moved[0] - moved[1]) / (2 * STEP), rel=0.03, abs=1e-3)


def test_of_text_the_chance_is_the_probability_of_the_answer(evaluator: Evaluator) -> None:
    made = recipe("task_arithmetic")
    score = evaluator.evaluate(Job("a", "search", recipe=made)).outcome
    assert not isinstance(score, Failure)
    ids = {"demo_reverse": tuple(score.measures["demo_reverse"]["loglikelihood"])}
    likelihoods = score.measures["demo_reverse"]["loglikelihood"].values()
    want = sum(map(math.exp, likelihoods)) / len(likelihoods)
    assert found(evaluator, made, only=ids).value == pytest.approx(want, abs=1e-5)


def test_documents_are_those_that_are_named(evaluator: Evaluator) -> None:
    ids = {task: tuple(each.id for each in its) for task, its in evaluator._setting.prepared.requests("search").items()}
    made = recipe("task_arithmetic")
    whole = found(evaluator, made)
    halves = [
        found(evaluator, made, only={task: its[part] for task, its in ids.items()})
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert [each.documents for each in halves] == [6, 6]
    assert sum(each.value for each in halves) / 2 == pytest.approx(whole.value, abs=1e-6)
    assert sum(of_mlp(each, 0) for each in halves) / 2 == pytest.approx(of_mlp(whole, 0), rel=1e-4)


def test_the_tied_embedding_comes_once_and_gradients_are_freed(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    alive: list[int] = []
    module = evaluator._resident.module
    assert module is not None

    def watched(job: Any, gradient: torch.Tensor, **keywords: Any) -> Any:
        seen.append(job.name)
        alive.append(sum(parameter.grad is not None for parameter in module.parameters()))
        return derivative(job, gradient, **keywords)

    monkeypatch.setattr(slopes, "derivative", watched)
    got = found(evaluator, recipe("task_arithmetic"))
    assert seen.count(EMBEDDING) == 1
    assert sorted(seen) == sorted(got.by)
    assert set(alive) == {0}
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in module.parameters())


def test_smaller_passes_give_the_same(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where memory runs out in the middle of a backward pass, whose part is forgotten."""
    made = recipe("task_arithmetic")
    whole = found(evaluator, made)
    count = iter(range(1000))

    def scarce(job: Any, gradient: torch.Tensor, **keywords: Any) -> Any:
        if next(count) == 20:
            raise MemoryError
        return derivative(job, gradient, **keywords)

    monkeypatch.setattr(slopes, "derivative", scarce)
    again = found(evaluator, made)
    assert next(count) > 70
    assert again.value == pytest.approx(whole.value, abs=1e-6)
    assert of_mlp(again, 0) == pytest.approx(of_mlp(whole, 0), rel=1e-4)


def test_choices_in_several_passes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a right choice counts depends on the others, which are then asked beforehand."""
    documents = [
        {"prompt": f"p:{a}{b}=", "choices": [a * 20, b * 20, a * 10 + b * 10]}
        for a, b in ("ab", "cd", "ef", "gh", "ij", "kl")
    ]
    data = tmp_path / "long_choices.jsonl"
    data.write_text("\n".join(json.dumps(each) for each in documents))
    task = {
        "task": "long_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "0",
        "doc_to_choice": "{{choices}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "long_choices.yaml").write_text(yaml.safe_dump(task))
    split: list[int] = []
    original = Answered.split

    def watched(self: Answered, batches: Sequence[Batch]) -> list[int]:
        split.extend(found := original(self, batches))
        return found

    monkeypatch.setattr(Answered, "split", watched)
    own = {"tasks": [{"task": "long_choices", "metric": "acc"}], "include": [str(tmp_path)]}
    own["documents"] = {"search": 2, "selection": 2, "report": 2}
    whole, narrow = (
        found(Evaluator(config(**own, batch_tokens=tokens)), recipe("task_arithmetic")) for tokens in (4096, SMALLEST)
    )
    assert sorted(split) == [0, 1]
    assert narrow.value == pytest.approx(whole.value, abs=1e-6)
    assert of_mlp(narrow, 0) == pytest.approx(of_mlp(whole, 0), rel=1e-4)


@pytest.fixture
def hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def within(self: Allowance, work: Any) -> None:
        raise MemoryError("none")

    monkeypatch.setattr(Allowance, "within", within)


@pytest.mark.usefixtures("hopeless")
def test_no_memory_is_a_failure(evaluator: Evaluator) -> None:
    evaluation = evaluator.evaluate(Job("a", "search", recipe=recipe("linear"), slopes=True))
    assert isinstance(evaluation.outcome, Failure)
    assert evaluation.outcome.kind == "memory"
    module = evaluator._resident.module
    assert module is not None
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_methods_without_slopes_are_a_failure(evaluator: Evaluator) -> None:
    made = Recipe.model_validate(
        {"merge_method": "model_stock", "base_model": BASE, "models": [{"model": REVERSE}, {"model": SORT}]}
    )
    outcome = evaluator.evaluate(Job("a", "search", recipe=made, slopes=True)).outcome
    assert isinstance(outcome, Failure)
    assert (outcome.kind, "model_stock" in outcome.message) == ("slopes", True)


def test_another_depth_is_a_failure(evaluator: Evaluator) -> None:
    ranges = ((REVERSE, [0, 4]), (SORT, [3, 6]))
    slices = [{"sources": [{"model": model, "layer_range": layers}]} for model, layers in ranges]
    made = Recipe.model_validate({"merge_method": "passthrough", "slices": slices})
    outcome = evaluator.evaluate(Job("a", "search", recipe=made, slopes=True)).outcome
    assert isinstance(outcome, Failure)
    assert outcome.kind == "slopes"
