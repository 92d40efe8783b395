"""What is packed of a user's task folders, and that it means the same in its new place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evolve.errors import ConfigError
from evolve.submission.task_files import TaskFiles, place, task_files
from tasks.data_files import local_files, locate

TASK = "task: t\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {data}}}\n"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a folder of tasks."""
    folder = tmp_path / "work"
    (folder / "mine").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def unpacked(found: TaskFiles, root: Path) -> None:
    for where, path in found.files.items():
        (root / where).parent.mkdir(parents=True, exist_ok=True)
        (root / where).write_bytes(found.texts[where].encode() if where in found.texts else path.read_bytes())


def read_there(found: TaskFiles, task: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data that the packed task reads, by the rules of a run in the package's folder."""
    import yaml

    unpacked(found, root)
    for path in found.files.values():
        path.unlink()  # so that the copies are read
    monkeypatch.chdir(root)
    config = yaml.safe_load(Path(task).read_text())
    return [path.read_text() for path in local_files(locate(config, Path(task).parent))]


def test_a_folder_is_packed_whole_but_for_what_is_hidden_or_a_checkpoint(work: Path) -> None:
    for name in ("t.yaml", "deep/functions.py", ".env", ".git/config", "__pycache__/x.pyc", "model/config.json"):
        (work / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "mine" / name).write_text("")
    (work / "mine/model/model.safetensors").write_text("")
    found = task_files(["mine"])
    assert set(found.files) == {"packed/here/mine/t.yaml", "packed/here/mine/deep/functions.py"}
    assert found.checkpoints == [Path("mine/model")]


@pytest.mark.parametrize("data", ["mine/a.jsonl", "data/a.jsonl", "a.jsonl", "{root}/far/a.jsonl", "data/*.jsonl"])
def test_data_is_found_again_wherever_it_stood(
    work: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data.format(root=tmp_path)
    file = {"a.jsonl": "mine/a.jsonl", "data/*.jsonl": "data/a.jsonl"}.get(data, data)
    (work / file).parent.mkdir(exist_ok=True)
    (work / file).write_text("the data")
    (work / "mine/t.yaml").write_text(TASK.format(data=data))
    found = task_files(["mine"])
    assert read_there(found, "packed/here/mine/t.yaml", tmp_path / "there", monkeypatch) == ["the data"]


def test_a_folder_from_elsewhere_keeps_its_own_place(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other/mine"
    other.mkdir(parents=True)
    for folder, text in ((work / "mine", "here"), (other, "there")):
        (folder / "a.jsonl").write_text(text)
        (folder / "t.yaml").write_text(TASK.format(data="a.jsonl"))
    found = task_files(["mine", "../other/mine"])
    assert len(found.files) == 4
    task = f"{place(other)}/t.yaml"
    assert task.startswith("packed/elsewhere/")
    assert read_there(found, task, tmp_path / "there", monkeypatch) == ["there"]


def test_templates_and_functions_outside_of_the_folder_come_along(work: Path) -> None:
    (work / "shared").mkdir()
    (work / "shared/base.yaml").write_text("process_docs: !function clean.docs\ninclude: more.yaml\n")
    (work / "shared/more.yaml").write_text(TASK.format(data=str(work / "shared/a.jsonl")))
    (work / "shared/clean.py").write_text("")
    (work / "shared/a.jsonl").write_text("")
    (work / "mine/t.yaml").write_text("include: ../shared/base.yaml\ntask: t\n")
    found = task_files(["mine"])
    expected = {"mine/t.yaml", *(f"shared/{name}" for name in ("base.yaml", "more.yaml", "clean.py", "a.jsonl"))}
    assert {name.removeprefix("packed/here/") for name in found.files} == expected
    assert "test: packed/here/shared/a.jsonl" in found.texts["packed/here/shared/more.yaml"]


def test_a_link_out_of_the_folder_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    os.symlink(tmp_path / "secret", work / "mine/data.jsonl")
    with pytest.raises(ConfigError, match=r"mine/data.jsonl\): is a link out of its folder"):
        task_files(["mine"])


def test_a_link_to_a_folder_is_refused(work: Path) -> None:
    (work / "more").mkdir()
    os.symlink(work / "more", work / "mine/more")
    with pytest.raises(ConfigError, match=r"mine/more\): is a link to a folder, to .*; put the folder itself there"):
        task_files(["mine"])


def test_what_is_no_folder_is_refused(work: Path) -> None:
    with pytest.raises(ConfigError, match=r"score.include\[1\] \(none\): is not a folder here"):
        task_files(["mine", "none"])


def test_broken_yaml_is_packed_as_it_is(work: Path) -> None:
    (work / "mine/t.yaml").write_text("task: [")
    assert set(task_files(["mine"]).files) == {"packed/here/mine/t.yaml"}
