"""Generation settings that cannot be are refused when requests are built, each in one line that names its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import TaskError
from tasks.gen_settings import check_settings, new_tokens
from tasks.prepared import Prepared, prepare_all
from tasks.spec import PromptSettings, TaskSpec

EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]

WRONG = [
    ({"max_gen_toks": 0}, "max_gen_toks is 0; give a whole number, 1 or more"),
    ({"max_gen_toks": 2.5}, "max_gen_toks is 2.5; give a whole number"),
    ({"max_gen_toks": "many"}, "max_gen_toks is 'many'; give a whole number"),
    ({"max_gen_toks": True}, "max_gen_toks is True; give a whole number"),
    ({"max_gen_toks": float("inf")}, "max_gen_toks is inf; give a whole number"),
    ({"max_new_tokens": -1}, "max_new_tokens is -1; give a whole number"),
    ({"max_completion_tokens": []}, "max_completion_tokens is []; give a whole number"),
    ({"until": 3}, "until is 3; give a text or a list of texts"),
    ({"until": None}, "until is None; give a text or a list of texts"),
    ({"until": ["a", 3]}, "until is ['a', 3]; give a text or a list of texts"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0; give a number above 0"),
    ({"repetition_penalty": "1.1"}, "repetition_penalty is '1.1'; give a number above 0"),
    ({"repetition_penalty": float("nan")}, "repetition_penalty is nan; give a number above 0"),
    ({"temperature": None}, "temperature is None; give a number, 0 or more"),
    ({"temperature": -0.5}, "temperature is -0.5; give a number, 0 or more"),
    ({"do_sample": "no"}, "do_sample is 'no'; give true or false"),
    ({"num_beam": 2}, "'num_beam' is no generation setting; did you mean 'num_beams'"),
    ({"max_gen_tok": 2}, "'max_gen_tok' is no generation setting; did you mean 'max_gen_toks'"),
    ({"xyzzy": 1}, "'xyzzy' is no generation setting; leave it out"),
]


@pytest.fixture
def asked(add_task: Callable[..., Path], tokenizer: Any) -> Callable[..., Prepared]:
    """`asked(own, over)`: a task with generation_kwargs of its own and `gen_kwargs` over them."""

    def build(own: dict[str, Any], over: dict[str, Any] | None = None, question: str = "q") -> Prepared:
        settings = {"doc_to_text": "{{q}}", "doc_to_target": "{{a}}", "generation_kwargs": own, "metric_list": EXACT}
        documents = [{"q": "x", "a": "y"}, {"q": question, "a": "y"}]
        folder = add_task("write", documents, output_type="generate_until", **settings)
        prompt = PromptSettings(gen_kwargs=over)
        return prepare_all([TaskSpec("write")], include=[folder], limit=None, tokenizer=tokenizer, prompt=prompt)

    return build


@pytest.mark.parametrize(("settings", "said"), WRONG, ids=[str(each) for each, _ in WRONG])
def test_wrong_settings_of_the_command_line(
    asked: Callable[..., Prepared], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(TaskError) as caught:
        asked({"until": ["."]}, settings)
    assert str(caught.value).startswith(f"gen_kwargs: {said}")
    assert "\n" not in str(caught.value)


def test_wrong_settings_of_the_task(asked: Callable[..., Prepared]) -> None:
    with pytest.raises(TaskError, match=r"^task 'write': generation_kwargs: max_gen_toks is 0; give a whole number"):
        asked({"until": ["."], "max_gen_toks": 0}, {"temperature": 0.0})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 256),
        ({"max_gen_toks": None, "max_new_tokens": 3}, 3),
        ({"max_tokens": 4.0, "until": "."}, 4),
        ({"max_gen_toks": 5, "max_completion_tokens": 9, "until": [], "num_beams": 2, "repetition_penalty": 1}, 5),
        ({"temperature": 0, "do_sample": False, "top_k": 4, "stop_strings": ["x"]}, 256),
    ],
)
def test_right_settings(settings: dict[str, Any], expected: int) -> None:
    check_settings(settings, None, "write")
    assert new_tokens(settings) == expected


def test_a_prompt_without_tokens(asked: Callable[..., Prepared]) -> None:
    with pytest.raises(
        TaskError, match=r"^task 'write': document 1: its prompt '' has no tokens; see the task's doc_to"
    ):
        asked({"until": ["."]}, question="")
