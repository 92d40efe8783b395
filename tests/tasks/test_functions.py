"""Code is only run from where the task is, and nothing is imported before that is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import TaskError
from tasks.functions import check_functions
from tasks.load import TaskLibrary

MARK = "import pathlib\npathlib.Path({path!r}).touch()\ndef f(docs):\n    return docs\n"


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that exists once the dangerous module was imported."""
    return tmp_path / "ran"


@pytest.fixture
def task_with(tmp_path: Path) -> Callable[[str], Path]:
    """A task file in an include folder of its own whose `process_docs` is this reference."""

    def write(reference: str, **more: str) -> Path:
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        (folder / "data.jsonl").write_text('{"q": "a", "a": "b"}\n')
        text = (
            "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
            "doc_to_text: q\ndoc_to_target: a\n"
        )
        (folder / "t.yaml").write_text(text + (f"process_docs: !function {reference}\n" if reference else ""))
        return folder

    return write


def outside(tmp_path: Path, ran: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "evil.py").write_text(MARK.format(path=str(ran)))
    return folder


def test_code_beside_the_task_is_run(tmp_path: Path, ran: Path, task_with: Callable[..., Path]) -> None:
    folder = task_with("mine.f")
    (folder / "mine.py").write_text(MARK.format(path=str(ran)))
    assert len(TaskLibrary([folder]).load("t").eval_docs) == 1
    assert ran.exists()


def test_a_file_elsewhere_by_its_path(tmp_path: Path, ran: Path, task_with: Callable[..., Path]) -> None:
    folder = task_with(f"{outside(tmp_path, ran)}/evil.f")
    with pytest.raises(TaskError, match=r"task 't': .*t\.yaml: !function .*evil\.f is .*evil\.py, outside of the incl"):
        TaskLibrary([folder]).load("t")
    assert not ran.exists()


def test_a_file_elsewhere_by_a_link(tmp_path: Path, ran: Path, task_with: Callable[..., Path]) -> None:
    folder = task_with("linked.f")
    (folder / "linked.py").symlink_to(outside(tmp_path, ran) / "evil.py")
    with pytest.raises(TaskError, match="outside of the include folder"):
        TaskLibrary([folder]).load("t")
    assert not ran.exists()


def test_in_a_file_that_is_included(tmp_path: Path, ran: Path, task_with: Callable[..., Path]) -> None:
    folder, other = task_with(""), outside(tmp_path, ran)
    (other / "template").write_text("process_docs: !function evil.f\n")
    with (folder / "t.yaml").open("a") as file:
        file.write("include: ../elsewhere/template\n")
    with pytest.raises(TaskError, match="outside of the include folder"):
        TaskLibrary([folder]).load("t")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("os.system", "!function os.system is the installed module os, not a file of the task's; nothing was run"),
        ("subprocess.run", "is the installed module subprocess"),
        ("mispelt.f", "!function mispelt.f: there is no mispelt.py beside t.yaml; put f there"),
    ],
)
def test_modules(task_with: Callable[..., Path], reference: str, said: str) -> None:
    with pytest.raises(TaskError) as raised:
        TaskLibrary([task_with(reference)]).load("t")
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_what_lm_eval_brings_along_may_be_run(task_with: Callable[..., Any]) -> None:
    folder = task_with("lm_eval.tasks.hellaswag.utils.process_docs")
    check_functions(folder / "t.yaml", folder)


@pytest.mark.parametrize("more", ["", ", hf_evaluate: true"])
@pytest.mark.parametrize("name", ["{folder}/evil.py", "./evil", "someone/evil", "evil", "../elsewhere/evil"])
def test_a_metric_that_is_somebodys_code(
    name: str, more: str, tmp_path: Path, ran: Path, task_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = outside(tmp_path, ran)
    (folder / "evil").mkdir()
    (folder / "evil" / "evil.py").write_text(MARK.format(path=str(ran)))
    monkeypatch.chdir(folder)
    mine = task_with("")
    with (mine / "t.yaml").open("a") as file:
        file.write(f"metric_list: [{{metric: {name.format(folder=folder)}, aggregation: mean{more}}}]\n")
    with pytest.raises(TaskError, match="would run code from outside of the task's folder"):
        TaskLibrary([mine]).load("t")
    assert not ran.exists()
