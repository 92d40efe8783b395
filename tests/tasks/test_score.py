"""Scoring: broken models, directions and weights, silence, and nothing rendered twice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import NotFinite, TaskError
from tasks.objective import Objective
from tasks.prepared import Prepared, prepare
from tasks.score import Scorer
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


def test_every_document_of_the_set_is_scored(build: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    prepared = build()
    found = Scorer(prepared, model, tokenizer, batch_tokens=1024).score("selection")
    objective = Objective(prepared.objective_goals)
    metrics = objective.metrics(found.measures)
    assert objective.value(found.measures) == pytest.approx((3 * metrics["pick"] + metrics["write"]) / 4)
    for goal in prepared.objective_goals:
        values = found.measures[goal.task][goal.measure]
        assert tuple(sorted(values)) == prepared.documents[goal.task].selection
    assert set(found.seconds) == {"forward", "other"}


def test_only_what_is_named_is_scored(build: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    prepared = build()
    scorer = Scorer(prepared, model, tokenizer, batch_tokens=1024)
    whole = scorer.score("search").measures["pick"]["acc,none"]
    some = prepared.documents["pick"].search[1:4]
    part = scorer.score("search", only={"pick": some}).measures
    assert part["pick"]["acc,none"] == {document: whole[document] for document in some}
    assert not any(part.get("write", {}).values())


def test_changed_weights_are_scored_anew_and_the_old_ones_as_before(
    build: Callable[..., Prepared], model: Any, tokenizer: Any
) -> None:
    scorer = Scorer(build(), model, tokenizer, batch_tokens=2048)
    before = scorer.score("search")
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.5)
    assert scorer.score("search").measures != before.measures
    model.load_state_dict(kept)
    assert scorer.score("search").measures == before.measures


@pytest.mark.parametrize(("name", "said"), [("pick", "log-probability"), ("write", "next-token logits")])
def test_nan_is_an_error_of_its_own(
    build: Callable[..., Prepared], model: Any, tokenizer: Any, name: str, said: str
) -> None:
    scorer = Scorer(build(*[spec for spec in SPECS if spec.task == name]), model, tokenizer, batch_tokens=2048)
    scorer.score("search")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match=f"task '{name}': document .*{said} is NaN"):
        scorer.score("search")


def test_nothing_is_printed(
    build: Callable[..., Prepared], model: Any, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = Scorer(build(), model, tokenizer, batch_tokens=2048)
    for which in ("search", "selection", "report"):
        scorer.score(which)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


def test_templates_and_token_ids_are_made_once(
    build: Callable[..., Prepared], model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(build(TaskSpec("pick", "acc")), model, tokenizer, batch_tokens=2048)
    first = scorer.score("search")
    monkeypatch.setattr("lm_eval.utils.apply_template", lambda *_: pytest.fail("rendered again"))
    monkeypatch.setattr(type(tokenizer), "encode", lambda *_, **__: pytest.fail("encoded again"))
    assert scorer.score("search").measures == first.measures


def test_only_generated_text_needs_a_token_that_ends_it(
    build: Callable[..., Prepared], model: Any, tokenizer: Any
) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    choices = build(TaskSpec("pick", "acc"))
    found = Scorer(choices, model, endless, batch_tokens=1024).score("search").measures
    assert found == Scorer(choices, model, tokenizer, batch_tokens=1024).score("search").measures
    with pytest.raises(TaskError, match="task 'write': generates text, but the tokenizer has no token that ends one"):
        Scorer(build(), model, endless, batch_tokens=1024).score("search")


def test_prompts_beyond_the_context(build: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="generates up to 6 tokens, but the context has room for 5"):
        Scorer(build(max_length=5), model, tokenizer, batch_tokens=2048).score("search")


def test_batch_tokens_are_checked(build: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="batch_tokens: 0; give 32 or more"):
        Scorer(build(), model, tokenizer, batch_tokens=0)
