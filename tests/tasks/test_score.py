"""Scoring: broken models, directions and weights, silence, and nothing rendered twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import NotFinite, TaskError
from tasks.prepared import Prepared, prepare
from tasks.score import Scorer, objective
from tasks.spec import PromptSettings, Sizes, TaskSpec

SPECS = (TaskSpec("pick", "acc", weight=3.0), TaskSpec("write", "exact_match", weight=1.0))


@pytest.fixture
def build(folder: Path, tokenizer: Any) -> Callable[..., Prepared]:
    def build(*specs: TaskSpec, **prompt: Any) -> Prepared:
        return prepare(
            specs or SPECS, include=[folder], sizes=Sizes(12, 6, 8), seed=0, tokenizer=tokenizer,
            prompt=PromptSettings(**prompt), allow_benchmarks=False,
        )  # fmt: skip

    return build


def test_objective_is_the_weighted_mean(build: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    prepared = build()
    found = Scorer(prepared, model, tokenizer, batch_size=4).score("selection")
    assert found.objective == pytest.approx((3 * found.metrics["pick"] + found.metrics["write"]) / 4)
    for name, values in found.values.items():
        assert tuple(values) == prepared.documents[name].selection
        assert found.metrics[name] == pytest.approx(sum(values.values()) / len(values))
    assert found.higher_is_better == {"pick": True, "write": True}
    assert set(found.seconds) == {"forward", "other"}


def test_lower_is_better_is_turned_round(
    build: Callable[..., Prepared], add_task: Callable[..., Path], folder: Path
) -> None:
    documents = [{"q": f"q{number}", "a": "b"} for number in range(30)]
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": False}
    add_task("errors", documents, doc_to_text="q", doc_to_target="a", metric_list=[metric])
    assert objective(build(TaskSpec("errors", "exact_match")), {"errors": 0.25}) == -0.25


def test_changed_weights_are_scored_anew_and_the_old_ones_as_before(
    build: Callable[..., Prepared], model: Any, tokenizer: Any
) -> None:
    scorer = Scorer(build(), model, tokenizer, batch_size=8)
    before = scorer.score("search")
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.5)
    assert scorer.score("search").values != before.values
    model.load_state_dict(kept)
    assert scorer.score("search").values == before.values


@pytest.mark.parametrize(("name", "said"), [("pick", "log-probability"), ("write", "next-token logits")])
def test_nan_is_an_error_of_its_own(
    build: Callable[..., Prepared], model: Any, tokenizer: Any, name: str, said: str
) -> None:
    scorer = Scorer(build(*[spec for spec in SPECS if spec.task == name]), model, tokenizer, batch_size=8)
    scorer.score("search")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match=f"task '{name}': document .*{said} is NaN"):
        scorer.score("search")


def test_nothing_is_printed(
    build: Callable[..., Prepared], model: Any, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = Scorer(build(), model, tokenizer, batch_size=8)
    for which in ("search", "selection", "report"):
        scorer.score(which)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


def test_templates_and_token_ids_are_made_once(
    build: Callable[..., Prepared], model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(build(TaskSpec("pick", "acc")), model, tokenizer, batch_size=8)
    first = scorer.score("search")
    monkeypatch.setattr("lm_eval.utils.apply_template", lambda *_: pytest.fail("rendered again"))
    monkeypatch.setattr(type(tokenizer), "encode", lambda *_, **__: pytest.fail("encoded again"))
    assert scorer.score("search").values == first.values


def test_prompts_beyond_the_context(build: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="lm-eval cannot ask a generate_until request"):
        Scorer(build(max_length=5), model, tokenizer, 8).score("search")


def test_batch_size_is_checked(build: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="batch_size: 0; give 1 or more"):
        Scorer(build(), model, tokenizer, 0)
