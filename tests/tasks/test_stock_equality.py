"""Our per-document values are stock lm-eval's: same ids, same prompts, same answers, log-probabilities within 1e-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tasks.objective import Objective
from tasks.prepared import prepare
from tasks.score import Scorer
from tasks.spec import PromptSettings, Sizes, TaskSpec

SIZES = Sizes(search=30, selection=10, report=20)
SPECS = {
    "pick": TaskSpec("pick", "acc"),
    "pick_norm": TaskSpec("pick", "acc_norm,none"),
    "pick_shots": TaskSpec("pick_shots", "acc"),
    "write": TaskSpec("write", "exact_match,first-letter"),
    "write_shots": TaskSpec("write_shots", "exact_match,first-letter"),
    "write_more": TaskSpec("write_shots", "exact_match,first-letter", num_fewshot=3),
}


@pytest.fixture(autouse=True)
def _no_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock lm-eval lists the machine's packages after each run: seconds, and nothing of a score."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    monkeypatch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)


def stock(
    spec: TaskSpec, ids: tuple[int, ...], folder: Path, model: Any, tokenizer: Any, prompt: PromptSettings
) -> dict[int, tuple[float, Any, Any]]:
    """Document id -> (value, prompts, raw answers) of simple_evaluate."""
    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
        tasks=[spec.task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        samples={spec.task: list(ids)},
        num_fewshot=spec.num_fewshot,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=prompt.apply_chat_template,
        system_instruction=prompt.system_instruction,
        fewshot_as_multiturn=prompt.fewshot_as_multiturn,
    )
    assert results is not None
    metric, _, chosen = spec.metric.partition(",")
    return {
        sample["doc_id"]: (sample[metric], sample["arguments"], sample["resps"])
        for sample in results["samples"][spec.task]
        if sample["filter"] == (chosen or "none")
    }


def assert_same(ours: dict[int, tuple[Any, ...]], stock: dict[int, tuple[Any, ...]]) -> None:
    """Everything equal, but for log-probabilities, which other batches round otherwise."""
    assert ours.keys() == stock.keys()
    for document, (value, *rest) in ours.items():
        assert value == stock[document][0]
        assert_close(rest, list(stock[document][1:]))


def assert_close(first: Any, second: Any) -> None:
    if isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-4)
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_close(one, other)
    else:
        assert first == second


def ours(scorer: Scorer, task: str) -> dict[int, tuple[float, Any, Any]]:
    score, measure = scorer.score("search"), str(scorer.prepared.tasks[task].metric)
    return {
        each.id: (
            score.measures[task][measure][each.id],
            [instance.args for instance in each.instances],
            [instance.resps for instance in each.instances],
        )
        for each in scorer.prepared.requests("search")[task]
    }


@pytest.mark.parametrize("prompt", [
    PromptSettings(),
    PromptSettings(apply_chat_template=True, system_instruction="answer", fewshot_as_multiturn=True),
    PromptSettings(apply_chat_template=True, fewshot_as_multiturn=False),
], ids=["plain", "chat", "single_turn"])  # fmt: skip
@pytest.mark.parametrize("name", SPECS)
def test_values_prompts_and_answers_equal_stock(
    name: str,
    prompt: PromptSettings,
    folder: Path,
    model: Any,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = SPECS[name]
    prepared = prepare(
        [spec],
        include=[folder],
        sizes=SIZES,
        seed=3,
        tokenizer=tokenizer,
        prompt=prompt,
        allow_benchmarks=False,
    )
    scorer = Scorer(prepared, model, tokenizer, batch_tokens=2048)
    first = ours(scorer, spec.task)
    monkeypatch.chdir(folder)  # stock finds the data only from here
    expected = stock(spec, prepared.documents[spec.task].search, folder, model, tokenizer, prompt)
    assert_same(first, expected)
    assert ours(scorer, spec.task) == first, "a second candidate is scored as the first one was"
    assert len({str(answers) for _, _, answers in expected.values()}) > 10, "the check would be empty"
    assert len({value for value, _, _ in expected.values()}) == 2, "the check would be empty"


def test_tasks_together_equal_stock_together(
    folder: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [SPECS[name] for name in ("pick", "pick_shots", "write", "write_shots")]
    prepared = prepare(
        specs, include=[folder], sizes=SIZES, seed=3, tokenizer=tokenizer, prompt=PromptSettings(),
        allow_benchmarks=False,
    )  # fmt: skip
    score = Scorer(prepared, model, tokenizer, batch_tokens=2048).score("report")
    monkeypatch.chdir(folder)
    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
        tasks=[spec.task for spec in specs],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        samples={spec.task: list(prepared.documents[spec.task].report) for spec in specs},
        bootstrap_iters=0,
    )
    assert results is not None
    for spec in specs:
        metric, _, chosen = spec.metric.partition(",")
        assert (
            Objective(prepared.objective_goals).metrics(score.measures)[spec.task]
            == results["results"][spec.task][f"{metric},{chosen or 'none'}"]
        )
        records = {
            sample["doc_id"]: (sample[metric], sample["resps"])
            for sample in results["samples"][spec.task]
            if sample["filter"] == (chosen or "none")
        }
        got = {
            each.id: (
                score.measures[spec.task][f"{metric},{chosen or 'none'}"][each.id],
                [instance.resps for instance in each.instances],
            )
            for each in prepared.requests("report")[spec.task]
        }
        assert_same(got, records)
