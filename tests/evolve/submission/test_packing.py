"""What `evolve submit` sends: true on the other side, the same every time, and nothing secret."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from evolve.config.search_yaml import SearchConfig, load_config
from evolve.errors import ConfigError
from evolve.submission import packing
from evolve.submission.packing import package_of


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/t.yaml").write_text("task: t\n")
    (tmp_path / "models/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def search(**changes: Any) -> SearchConfig:
    data: dict[str, Any] = {
        "name": "run",
        "models": {"base": "models/base", "sources": ["org/one@v2", "models/base+org/lora"]},
        "score": {"tasks": [{"task": "t", "metric": "acc"}], "include": ["mine"]},
        "search": {"trials": 7},
    }
    return SearchConfig.model_validate(data | changes)


def sent(config: SearchConfig, folder: Path) -> SearchConfig:
    path = folder / "sent.yaml"
    path.write_bytes(package_of(config).contents["search.yaml"])
    return load_config(path)


def test_the_configuration_is_true_on_the_other_side(work: Path) -> None:
    there = sent(search(run={"address": "local", "output": "out/runs"}), work)
    assert there.models.base == str(work / "models/base")
    assert there.models.sources == ("org/one@v2", f"{work / 'models/base'}+org/lora")
    assert there.score.include == ("packed/here/mine",)
    assert there.run.address == "auto"
    assert there.run.output == "~/out/runs"
    assert there.folder == Path.home() / "out/runs/run"
    assert there.search.trials == 7
    assert sent(search(run={"output": "/data/runs"}), work).run.output == "/data/runs"


def test_numbers_come_through_as_they_are(work: Path) -> None:
    space = {"parameters": {"weight": {"low": 1e-05, "high": 1.0}}}
    assert sent(search(space=space), work).space == search(space=space).space


def test_the_same_package_has_the_same_bytes_and_digest(work: Path) -> None:
    one, again = package_of(search()), package_of(search())
    one.write(work / "one.zip", {"more.whl": b"x"})
    again.write(work / "again.zip", {"more.whl": b"x"})
    assert (work / "one.zip").read_bytes() == (work / "again.zip").read_bytes()
    assert {"search.yaml", "job_start.py", "more.whl"} < set(zipfile.ZipFile(work / "one.zip").namelist())
    assert one.digest == again.digest
    assert package_of(search(seed=1)).digest != one.digest
    (work / "mine/t.yaml").write_text("task: u\n")
    assert package_of(search()).digest != one.digest


def test_models_that_only_this_machine_may_have_are_said(work: Path) -> None:
    (warning,) = package_of(search()).warnings
    assert f"models: {work / 'models/base'} are folders here" in warning
    absent = ["/no/such/model", "models/misnamed", "./x", "a/b/c"]
    models = {"base": "org/base", "sources": [*absent, "org/one", "gpt2", "org/base+org/lora@main"]}
    (warning,) = package_of(search(models=models)).warnings
    assert f"there is no folder {', '.join(absent)} here" in warning


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:pa55word@host/x", "mysql+pymysql://me@host/x?password=pa55word"],
)
def test_a_password_never_leaves(work: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"run.storage: its URL holds a password.*pgpass") as caught:
        package_of(search(run={"storage": url}))
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite:///runs.db", "journal:runs.log"])
def test_a_storage_in_the_working_folder_is_refused(work: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"run.storage .*is a path from the working folder"):
        package_of(search(run={"storage": url}))


@pytest.mark.parametrize("url", ["sqlite:////data/runs.db", "journal:///data/runs.log", "postgresql://me@host/x"])
def test_other_storages_are_sent(work: Path, url: str) -> None:
    assert package_of(search(run={"storage": url})).config.run.storage == url


def test_tokens_in_files_never_leave(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "mine/load.py").write_text(f"TOKEN = 'hf_{'x' * 34}'")
    with pytest.raises(ConfigError, match=r"mine/load.py: holds a token or password") as caught:
        package_of(search())
    assert "xxxx" not in str(caught.value)
    monkeypatch.setenv("MY_TOKEN", "something-secret")
    (work / "mine/load.py").write_text("TOKEN = 'something-secret'")
    with pytest.raises(ConfigError, match=r"mine/load.py: holds a token"):
        package_of(search())


def test_too_much_is_refused_by_name(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGEST", 1000)
    (work / "mine/large.jsonl").write_text("x" * 2000)
    with pytest.raises(ConfigError, match=r"the largest are mine/large.jsonl"):
        package_of(search())
