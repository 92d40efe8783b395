"""The set of all documents is what `lm_eval --limit` asks, prompt by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from tasks.errors import TaskError
from tasks.prepared import Prepared, prepare_all
from tasks.prompts import chat_template
from tasks.spec import PromptSettings, TaskSpec

TASKS = ("pick", "pick_shots", "write", "write_shots")
CHAT = PromptSettings(apply_chat_template=True, system_instruction="answer", fewshot_as_multiturn=True)
GENERATION = PromptSettings(gen_kwargs={"max_gen_toks": 3, "temperature": 0.5})


def ours(folder: Path, tokenizer: Any, prompt: PromptSettings, shots: int | None, limit: int | None) -> Prepared:
    specs = [TaskSpec(name, num_fewshot=shots) for name in TASKS]
    return prepare_all(specs, include=[folder], limit=limit, tokenizer=tokenizer, prompt=prompt)


@pytest.mark.parametrize(
    ("prompt", "shots", "limit"),
    [
        (PromptSettings(), None, 7),
        (PromptSettings(), 3, None),
        (CHAT, None, 7),
        (CHAT, 0, 7),
        (GENERATION, 3, 7),
    ],
    ids=["plain", "all", "chat", "zero", "generation"],
)
def test_requests_are_those_of_stock(
    folder: Path,
    tokenizer: Any,
    prompt: PromptSettings,
    shots: int | None,
    limit: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = ours(folder, tokenizer, prompt, shots, limit)
    monkeypatch.chdir(folder)  # stock finds the data only from here
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(list(TASKS))["tasks"]
    for name in TASKS:
        stock = loaded[name]
        if prompt.gen_kwargs and stock.OUTPUT_TYPE == "generate_until":
            stock.set_config("generation_kwargs", dict(prompt.gen_kwargs), update=True)
        if shots is not None:
            stock.set_config("num_fewshot", shots)
        stock.set_fewshot_seed(1234)
        stock.build_all_requests(
            limit=limit,
            system_instruction=prompt.system_instruction,
            apply_chat_template=prompt.apply_chat_template,
            fewshot_as_multiturn=prompt.fewshot_as_multiturn,
            chat_template=chat_template(tokenizer),
        )
        expected = [(each.doc_id, each.idx, each.args) for each in stock.instances]
        asked = prepared.requests("all")[name]
        assert [(one.id, each.idx, each.args) for one in asked for each in one.instances] == expected
        assert len(asked) == (limit or 80)


def test_the_metric_is_the_first_one_that_can_be_searched_on(folder: Path, tokenizer: Any) -> None:
    prepared = ours(folder, tokenizer, PromptSettings(), None, 2)
    assert [(goal.task, goal.measure) for goal in prepared.objective_goals] == [
        ("pick", "acc,none"),
        ("pick_shots", "acc,none"),
        ("write", "exact_match,first-letter"),
        ("write_shots", "exact_match,first-letter"),
    ]


def test_a_limit_that_is_none(folder: Path, tokenizer: Any) -> None:
    with pytest.raises(TaskError, match="limit: 0; give 1 or more"):
        ours(folder, tokenizer, PromptSettings(), None, 0)


def test_digests_tell_what_is_asked_and_nothing_else(folder: Path, tokenizer: Any) -> None:
    def digests(prompt: PromptSettings, shots: int | None, limit: int | None) -> dict[str, list[str]]:
        asked = ours(folder, tokenizer, prompt, shots, limit).requests("all")
        return {name: [each.digest for each in documents] for name, documents in asked.items()}

    few, many = digests(PromptSettings(), None, 7), digests(PromptSettings(), None, None)
    assert {name: each[:7] for name, each in many.items()} == few
    assert len(set(many["pick"])) == 80
    other = digests(GENERATION, None, 7)
    assert other["pick"] == few["pick"]
    assert not set(other["write"]) & set(few["write"])
    assert not set(digests(PromptSettings(), 1, 7)["pick"]) & set(few["pick"])
    path = folder / "write.yaml"
    path.write_text(path.read_text().replace("([A-Za-z0-9])", "([a-z])"))  # the filter judges
    assert not set(digests(PromptSettings(), None, 7)["write"]) & set(few["write"])
