"""Requests out of a file are those that were built, and a file of other inputs is not read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks.prepared
from tasks.inputs import tokenizer_digest
from tasks.prepared import Prepared, prepare
from tasks.spec import SETS, PromptSettings, Sizes, TaskSpec

LOGLIKELIHOOD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{q}}",
    "doc_to_target": " {{a}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{q}} {{a}}",
    "metric_list": [{"metric": "word_perplexity"}],
}
SPECS = [
    TaskSpec("pick_shots", "acc"),
    TaskSpec("write", "exact_match", num_fewshot=2),
    TaskSpec("next", "acc"),
    TaskSpec("whole", "word_perplexity"),
]


@pytest.fixture
def make(folder: Path, add_task: Callable[..., Path], tokenizer: Any, tmp_path: Path) -> Callable[..., Prepared]:
    """`make()` prepares tasks of all kinds, with the store in `requests`; repeats are of the task `write`."""
    for name, settings in (("next", LOGLIKELIHOOD), ("whole", ROLLING)):
        add_task(name, [{"q": f"{name} {number}", "a": "x"} for number in range(40)], **settings)

    def build(store: bool = True, **changes: Any) -> Prepared:
        asked = {"sizes": Sizes(8, 4, 5), "seed": 0, "prompt": PromptSettings(), "allow_benchmarks": False, **changes}
        where = tmp_path / "requests" if store else None
        return prepare(SPECS, include=[folder], tokenizer=tokenizer, sets=(), store=where, **asked)

    return build


def write(prepared: Prepared, folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    names = list(prepared.unstored())
    for which in prepared.unstored():
        with (folder / f"{which}.arrow").open("wb") as file:
            prepared.write(which, file)
    return names


@pytest.fixture
def never_built(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("built again")

    return lambda: monkeypatch.setattr(tasks.prepared, "build_requests", fail)


@pytest.mark.parametrize("prompt", [PromptSettings(), PromptSettings(apply_chat_template=True)], ids=["plain", "chat"])
def test_what_is_read_is_what_was_built(
    make: Callable[..., Prepared], tmp_path: Path, never_built: Callable[[], None], prompt: PromptSettings
) -> None:
    built = make(store=False, prompt=prompt)
    expected = {which: built.requests(which) for which in SETS}
    digest = built.digest
    assert write(make(prompt=prompt), tmp_path / "requests") == list(SETS)
    never_built()
    read = make(prompt=prompt)
    assert read.unstored() == ()
    for which in SETS:
        assert read.requests(which) == expected[which]
    assert read.digest == digest
    assert {name: each.available for name, each in read.tasks.items()} == {
        name: each.available for name, each in built.tasks.items()
    }


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"sizes": Sizes(8, 4, 6)}, {"prompt": PromptSettings(gen_kwargs={"max_gen_toks": 2})}]
)
def test_other_settings(make: Callable[..., Prepared], tmp_path: Path, changes: dict[str, Any]) -> None:
    write(make(), tmp_path / "requests")
    assert make(**changes).unstored() == SETS
    assert make(**changes).requests("search") == make(store=False, **changes).requests("search")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("write.yaml", "{{question}}=", "{{question}}:"), ("pick_shots_train.jsonl", '"gold": 1', '"gold": 2')],
)
def test_other_files(
    make: Callable[..., Prepared], folder: Path, tmp_path: Path, file: str, old: str, new: str
) -> None:
    write(make(), tmp_path / "requests")
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert make().unstored() == SETS


def cut(content: bytearray) -> bytes:
    return bytes(content[:200])


def page_of_zeros(content: bytearray) -> bytes:
    """What an interrupted machine leaves: token ids of the middle are gone, the rest is there."""
    middle = len(content) // 2
    content[middle : middle + 512] = bytes(512)
    return bytes(content)


def without_checksum(content: bytearray) -> bytes:
    return bytes(content[64:])


def nothing(content: bytearray) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, page_of_zeros, without_checksum, nothing])
def test_damaged_files_are_built_again(
    make: Callable[..., Prepared], tmp_path: Path, damage: Callable[[bytearray], bytes]
) -> None:
    expected = make(store=False).requests("search")
    write(make(), tmp_path / "requests")
    path = tmp_path / "requests" / "search.arrow"
    assert make().unstored() == ()  # the checksum of the whole file was seen
    path.write_bytes(damage(bytearray(path.read_bytes())))
    assert make().unstored() == ("search",)
    assert make().requests("search") == expected
    path.unlink()
    assert make().requests("search") == expected


def test_a_file_with_other_documents_is_not_read(make: Callable[..., Prepared], tmp_path: Path) -> None:
    expected = make(store=False).requests("search")
    write(make(), tmp_path / "requests")
    shutil.copy(tmp_path / "requests" / "selection.arrow", tmp_path / "requests" / "search.arrow")
    assert make().requests("search") == expected


def test_a_tokenizer_is_known_by_its_contents(tokenizer: Any) -> None:
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "abc"], padding="longest", truncation=True, max_length=2)  # leaves traces in the tokenizer
    assert tokenizer_digest(tokenizer) == before
    template, tokenizer.chat_template = tokenizer.chat_template, "{{ messages }}"
    try:
        assert tokenizer_digest(tokenizer) != before
    finally:
        tokenizer.chat_template = template
    assert tokenizer_digest(object()) is None
