"""What is prepared: few-shot examples from outside the sets, and a digest of all that is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.documents import canonical
from tasks.errors import TaskError, TooFewDocuments
from tasks.prepared import Prepared, prepare
from tasks.spec import SETS, PromptSettings, Sizes, TaskSpec

SIZES = Sizes(20, 10, 15)
SPEC = TaskSpec("write", "exact_match")


@pytest.fixture
def build(folder: Path, tokenizer: Any) -> Callable[..., Prepared]:
    def build(*specs: TaskSpec, **changes: Any) -> Prepared:
        asked = {"sizes": SIZES, "seed": 0, "prompt": PromptSettings(), **changes}
        return prepare(specs or (SPEC,), include=[folder], tokenizer=tokenizer, allow_benchmarks=False, **asked)

    return build


def test_examples_come_from_reserved_documents_when_there_is_no_other_split(
    build: Callable[..., Prepared],
) -> None:
    prepared = build(replace(SPEC, num_fewshot=3))
    sets, task = prepared.documents["write"], prepared.tasks["write"]
    assert len(sets.fewshot) == 12
    reserved = [task.documents[identity]["question"] for identity in sets.fewshot]
    for which in SETS:
        for asked in prepared.requests(which)["write"]:
            lines = asked.instances[0].args[0].split("\n\n")
            assert len(lines) == 4
            assert all(line.split("=")[0] in reserved for line in lines[:3])
            assert not set(reserved) & {lines[3].rstrip("=")}


def test_documents_that_are_also_examples_are_left_out(build: Callable[..., Prepared], folder: Path) -> None:
    train = (folder / "write_shots_train.jsonl").read_text()
    with (folder / "write_shots.jsonl").open("a") as file:
        file.write(train)
    prepared = build(TaskSpec("write_shots", "exact_match"))
    task = prepared.tasks["write_shots"]
    assert (len(task.documents), task.available, task.sets.fewshot) == (100, 80, ())
    examples = {canonical(document) for document in task.task.sampler.df}
    for which in SETS:
        assert not {canonical(task.documents[identity]) for identity in task.sets.ids(which)} & examples


def test_too_few_documents_and_other_faults_are_all_said(build: Callable[..., Prepared]) -> None:
    with pytest.raises(TooFewDocuments, match="80 distinct documents in split 'test', 81 needed"):
        build(sizes=Sizes(40, 40, 1))
    with pytest.raises(TaskError) as raised:
        build(replace(SPEC, metric="acc"), TaskSpec("pick", "f2"))
    assert len(str(raised.value).splitlines()) == 2


def test_num_fewshot_that_lm_eval_would_ignore(build: Callable[..., Prepared], add_task: Callable[..., Path]) -> None:
    add_task("none", [{"q": "a", "a": "b"}], doc_to_text="q", doc_to_target="a", num_fewshot=0)
    with pytest.raises(TaskError, match="fixes it at 0"):
        build(TaskSpec("none", "exact_match", num_fewshot=1))


def test_chat_template_that_is_not_there(build: Callable[..., Prepared], tokenizer: Any) -> None:
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(TaskError, match="the tokenizer has no chat template"):
            build(prompt=PromptSettings(apply_chat_template=True))
    finally:
        tokenizer.chat_template = template


def test_digest_is_the_same_for_the_same_questions(build: Callable[..., Prepared]) -> None:
    assert build().digest == build().digest == build(sets=()).digest == build(sets=("report",)).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": Sizes(21, 10, 15)},
        {"seed": 1},
        {"prompt": PromptSettings(apply_chat_template=True)},
        {"prompt": PromptSettings(system_instruction="go")},
        {"prompt": PromptSettings(max_length=64)},
    ],
)
def test_digest_changes_with_a_setting(build: Callable[..., Prepared], changes: dict[str, Any]) -> None:
    assert build(**changes).digest != build().digest


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, weight=2.0),
        replace(SPEC, num_fewshot=2),
        replace(SPEC, metric="exact_match,whole"),
        TaskSpec("pick", "acc"),
    ],
)
def test_digest_changes_with_a_task(build: Callable[..., Prepared], spec: TaskSpec) -> None:
    assert build(spec).digest != build().digest


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("write.yaml", "{{question}}=", "{{question}}:"),
        ("write.yaml", "max_gen_toks: 6", "max_gen_toks: 7"),
        ("write.jsonl", '"answer": "Q"', '"answer": "R"'),
    ],
)
def test_digest_changes_with_prompt_and_document(
    build: Callable[..., Prepared], folder: Path, file: str, old: str, new: str
) -> None:
    before = build().digest
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert build().digest != before


def test_tasks_that_share_documents(build: Callable[..., Prepared], folder: Path) -> None:
    text = (folder / "write.yaml").read_text()
    (folder / "again.yaml").write_text(text.replace("task: write", "task: again"))
    with pytest.raises(TaskError, match=r"task 'again': document \d+ is in the .* set, and the same document is in"):
        build(SPEC, TaskSpec("again", "exact_match"))
