"""Which answers are right, by the forms that lm-eval's tasks give them in, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import TaskError
from tasks.gold import Gold
from tasks.prepared import prepare_all
from tasks.spec import PromptSettings, TaskSpec

MEAN = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
CHOICE = {"output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "c", "metric_list": MEAN}
EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
TEXT = {"output_type": "generate_until", "doc_to_text": "{{q}}", "metric_list": EXACT}
AB = ["ab", "cd", "efg"]


@pytest.fixture
def gold(add_task: Callable[..., Path], tokenizer: Any) -> Callable[..., list[list[tuple[str, str]]]]:
    """The pairs of every document of a task with these documents and settings."""

    def ask(documents: list[dict[str, Any]], prompt: PromptSettings | None = None, **settings: Any) -> Any:
        folder = add_task("asked", documents, **settings)
        asked = prepare_all(
            [TaskSpec("asked")], include=[folder], limit=None, tokenizer=tokenizer, prompt=prompt or PromptSettings()
        ).requests("all")["asked"]
        for one in asked:
            for each in one.gold:
                check(each, tokenizer)
        return [[(each.context, each.continuation) for each in one.gold] for one in asked]

    return ask


def check(each: Gold, tokenizer: Any) -> None:
    given, answer = each.encoded
    assert tokenizer.decode([*given, *answer]) == each.context + each.continuation  # a token per character
    assert each.bytes == len(each.continuation.lstrip().encode())


def test_a_choice_by_number_and_by_text(gold: Callable[..., Any]) -> None:
    assert gold([{"q": "x", "c": AB, "a": 2}, {"q": "y", "c": AB, "a": 0}], **CHOICE, doc_to_target="a") == [
        [("x", " efg")],
        [("y", " ab")],
    ]
    assert gold([{"q": "x", "c": AB, "a": "cd"}], **CHOICE, doc_to_target="a") == [[("x", " cd")]]


def test_several_right_choices_each_once(gold: Callable[..., Any]) -> None:
    assert gold([{"q": "x", "c": AB, "a": [0, 2, 0]}], **CHOICE, doc_to_target="a") == [[("x", " ab"), ("x", " efg")]]


def test_choices_that_are_the_inputs(gold: Callable[..., Any]) -> None:
    settings = {**CHOICE, "doc_to_text": "n", "doc_to_target": "rest", "target_delimiter": " "}
    documents = [{"n": 1, "c": ["she", "he"], "rest": "left"}]
    assert gold(documents, **settings) == [[("he", " left")]]


def test_right_choices_beside_unconditional_requests(gold: Callable[..., Any]) -> None:
    mutual = [{"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}]
    assert gold([{"q": "x", "c": AB, "a": 1}], **{**CHOICE, "metric_list": mutual}, doc_to_target="a") == [
        [("x", " cd")]
    ]


def test_texts_and_lists_of_texts(gold: Callable[..., Any]) -> None:
    assert gold([{"q": "x", "a": "ab"}], **TEXT, doc_to_target="a") == [[("x", " ab")]]
    assert gold([{"q": "x", "a": ["ab", "c", "ab"]}], **TEXT, doc_to_target="a") == [[("x", " ab"), ("x", " c")]]
    assert gold([{"q": "x", "a": "ab"}], **TEXT, doc_to_target="a", target_delimiter="") == [[("x", "ab")]]
    assert gold([{"q": "x", "a": ""}], **TEXT, doc_to_target="a") == [[]]


def test_a_text_named_by_its_choice(gold: Callable[..., Any]) -> None:
    assert gold([{"q": "x", "c": AB, "a": 1}], **TEXT, doc_to_choice="c", doc_to_target="a") == [[("x", " cd")]]


def test_nothing_stands_between_a_chat_prompt_and_its_answer(gold: Callable[..., Any]) -> None:
    chat = PromptSettings(apply_chat_template=True)
    expected = [[("<user>x\n<assistant>", "ab")]]
    assert gold([{"q": "x", "a": "ab"}], chat, **TEXT, doc_to_target="a") == expected
    assert gold([{"q": "x", "c": AB, "a": 0}], chat, **CHOICE, doc_to_target="a") == expected


def test_a_loglikelihood_is_its_own_answer_and_a_whole_text_has_none(gold: Callable[..., Any]) -> None:
    documents = [{"q": "x", "a": "ab"}]
    settings = {"output_type": "loglikelihood", "metric_list": MEAN, "doc_to_text": "{{q}}", "doc_to_target": " {{a}}"}
    assert gold(documents, **settings) == [[("x", " ab")]]
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{a}}"}
    assert gold(documents, **rolling, metric_list=[{"metric": "word_perplexity"}]) == [[]]


def test_a_target_that_is_a_placeholder_is_no_answer(gold: Callable[..., Any]) -> None:
    assert gold([{"q": "x"}], **TEXT, doc_to_target=0) == [[]]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"q": "y", "c": [], "a": 0}, "task 'asked': document 1: it has no choices"),
        ({"q": "y", "c": ["a", ""], "a": 0}, "task 'asked': document 1: choice 1 is empty"),
        ({"q": "y", "c": AB, "a": 3}, "document 1: the right answer is 3, which is none of its 3 choices"),
        ({"q": "y", "c": AB, "a": -1}, "document 1: the right answer is -1, which is none of its 3 choices"),
    ],
)
def test_documents_that_cannot_be_judged(gold: Callable[..., Any], document: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        gold([{"q": "x", "c": AB, "a": 0}, document], **CHOICE, doc_to_target="a")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"q": "y", "c": ["a", ""], "a": 0}, "task 'asked': document 0: choice 1 is empty"),
        (
            {"q": "y", "c": AB, "a": 3},
            "task 'asked': document 0: the right answer is 3, which is none of its 3 choices",
        ),
    ],
)
def test_a_first_document_that_cannot_be_judged(gold: Callable[..., Any], document: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError, match=said):  # where lm-eval itself fails while it loads the task
        gold([document, {"q": "x", "c": AB, "a": 0}], **CHOICE, doc_to_target="a")


def test_a_judge_of_its_own_may_take_the_target_for_anything(add_task: Callable[..., Path], tokenizer: Any) -> None:
    documents = [{"q": "x", "c": AB, "a": 0}, {"q": "x", "c": AB, "a": 7}]
    folder = add_task("own", documents, **CHOICE, doc_to_target="a")
    (folder / "judge.py").write_text("def judge(doc, results):\n    return {'acc': 1.0}\n")
    config = yaml.safe_load((folder / "own.yaml").read_text())
    (folder / "own.yaml").write_text(yaml.safe_dump(config) + "process_results: !function judge.judge\n")
    prompt = PromptSettings()
    prepared = prepare_all([TaskSpec("own")], include=[folder], limit=None, tokenizer=tokenizer, prompt=prompt)
    assert [len(each.gold) for each in prepared.requests("all")["own"]] == [1, 0]
