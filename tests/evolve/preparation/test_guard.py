"""A run's folder and ledger belong to one configuration and one driver."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.config.search_yaml import SearchConfig, load_config
from evolve.errors import RunError
from evolve.preparation.belonging import storage_url
from evolve.preparation.guard import flat, guard, load_run, resolved, sole_driver
from evolve.report.reporting import report
from evolve.storage.ledger import Ledger
from evolve.trial import Trial
from evolve.watching.status import config_at, status

IDENTITY = {"models.content (b)": "f00", "score.content": "ba5"}


def config(folder: Path, **changes: Any) -> SearchConfig:
    data: dict[str, Any] = {
        "name": "run",
        "models": {"base": "b", "sources": ["s"]},
        "space": {"parameters": {"weight": {"low": 0.1, "high": 1}}},
        "score": {"tasks": [{"task": "t", "metric": "acc"}]},
        "search": {"trials": 10, "population": 4},
        "run": {"output": str(folder)},
    }
    for path, value in changes.items():
        section, key = path.split("__")
        data[section] = {**data[section], key: value}
    return SearchConfig.model_validate(data)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("/proc/self", target_is_directory=True)
    told = rf"^run\.output \({re.escape(str(tmp_path / 'run'))}\): cannot be written \(.+\); make it writable"
    with pytest.raises(RunError, match=told), sole_driver(config(tmp_path)):
        pass


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with sole_driver(config(tmp_path)) as (ledger, lease):
        lease.check()
        yield ledger


def test_a_new_run_is_new_once(tmp_path: Path, ledger: Ledger) -> None:
    assert guard(ledger, config(tmp_path), IDENTITY)
    assert not guard(ledger, config(tmp_path), IDENTITY)


def test_a_key_that_may_change_now_may_differ_from_an_older_record(tmp_path: Path, ledger: Ledger) -> None:
    guard(ledger, config(tmp_path), IDENTITY)
    recorded = ledger.attribute("configuration")
    ledger.set_attribute("configuration", {**recorded, "search.stop_early": True})
    assert not guard(ledger, config(tmp_path, search__stop_early=False), IDENTITY)


def test_a_key_that_an_older_record_lacks_is_as_it_was_then(tmp_path: Path, ledger: Ledger) -> None:
    guard(ledger, config(tmp_path), IDENTITY)
    recorded = ledger.attribute("configuration")
    del recorded["search.asynchronous"]
    ledger.set_attribute("configuration", recorded)
    assert not guard(ledger, config(tmp_path), IDENTITY)
    with pytest.raises(RunError, match=r"search.asynchronous \(was False, is True\)"):
        guard(ledger, config(tmp_path, search__asynchronous=True), IDENTITY)


def test_budgets_and_the_run_section_may_change(tmp_path: Path, ledger: Ledger) -> None:
    guard(ledger, config(tmp_path), IDENTITY)
    for changes in (
        {"search__stop_early": False},
        {"search__trials": 99, "search__hours": 2.0, "search__documents": 1000},
        {"score__batch_tokens": 512},
        {"run__workers": 7, "run__storage": f"sqlite:///{tmp_path}/run/study.db", "run__output": str(tmp_path)},
    ):
        assert not guard(ledger, resolved(config(tmp_path, **changes), 4), IDENTITY)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"models__sources": ["s", "t"]}, r"models\.sources \(was \['s'\], is \['s', 't'\]\)"),
        ({"space__parameters": {"weight": {"low": 0.2, "high": 1}}}, r"low \(was 0\.1, is 0\.2\)"),
        ({"space__parameters": {}}, r"space\.parameters"),
        ({"score__documents": {"search": 50}}, r"score\.documents\.search \(was 100, is 50\)"),
        ({"score__objective": "loglikelihood"}, r"score\.objective \(was 'metric', is 'loglikelihood'\)"),
        ({"search__optimizer": "tpe"}, r"search\.optimizer \(was 'cma', is 'tpe'\)"),
        ({"search__population": 6}, r"search\.population \(was 4, is 6\)"),
    ],
)
def test_everything_else_may_not(tmp_path: Path, ledger: Ledger, changes: dict[str, Any], named: str) -> None:
    guard(ledger, config(tmp_path), IDENTITY)
    with pytest.raises(RunError, match=f"begun with another configuration: .*{named}"):
        guard(ledger, config(tmp_path, **changes), IDENTITY)


def test_other_contents_are_refused(tmp_path: Path, ledger: Ledger) -> None:
    guard(ledger, config(tmp_path), IDENTITY)
    with pytest.raises(RunError, match=r"models\.content \(b\) \(was 'f00', is 'f01'\)"):
        guard(ledger, config(tmp_path), {**IDENTITY, "models.content (b)": "f01"})


def test_one_driver_in_a_folder(tmp_path: Path) -> None:
    with (
        sole_driver(config(tmp_path)),
        pytest.raises(RunError, match="another run is at work in this folder"),
        sole_driver(config(tmp_path)),
    ):
        pass
    with sole_driver(config(tmp_path)):
        pass
    left = set(os.listdir(tmp_path / "run")) - {".lock"}
    assert left == {"study.db"}


def test_a_start_that_fails_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    nowhere = {"run__storage": f"sqlite:///{tmp_path}/none/x.db"}
    with pytest.raises(RunError, match="unable to open"), sole_driver(config(tmp_path / "a/b", **nowhere)):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(RunError), sole_driver(config(tmp_path / "a/b", **nowhere)):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    (tmp_path / "a/run").mkdir()  # somebody else's
    with pytest.raises(RunError), sole_driver(config(tmp_path / "a", **nowhere)):
        pass
    assert (tmp_path / "a/run").is_dir()
    mine = tmp_path / "shared.db"
    with sole_driver(config(tmp_path / "b", run__storage=f"sqlite:///{mine}")):
        (tmp_path / "b/run/log.jsonl").write_text("{}")
    assert (tmp_path / "b/run/log.jsonl").is_file()


def test_one_driver_in_a_storage_that_two_folders_share(tmp_path: Path) -> None:
    shared = {"run__storage": f"sqlite:///{tmp_path}/shared.db"}
    with (
        sole_driver(config(tmp_path / "one", **shared)),
        pytest.raises(RunError, match="is already driving this run"),
        sole_driver(config(tmp_path / "two", **shared)),
    ):
        pass


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match=r"run\.output"), sole_driver(config(tmp_path)):
        pass


def test_the_storage_is_a_file_of_the_run_unless_it_is_named(tmp_path: Path) -> None:
    assert storage_url(config(tmp_path)) == f"sqlite:///{tmp_path}/run/study.db"
    assert storage_url(config(tmp_path, run__storage="postgresql://h/d")) == "postgresql://h/d"


def test_flat_names_every_leaf() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}) == {"a.b": 1, "a.c": {}, "d": [{"e": 2}]}


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run was begun here \(it has no search\.yaml\)"):
        load_run(tmp_path)
    with pytest.raises(RunError, match=r"none: no run was begun here \(there is no such folder\); give a folder"):
        status(tmp_path / "none")
    with pytest.raises(RunError, match=r"none\.yaml: there is no such file; give that of a search, or a folder"):
        status(tmp_path / "none.yaml")


def begin(begun: SearchConfig) -> None:
    with sole_driver(begun) as (ledger, _):
        guard(ledger, begun, IDENTITY)
    (begun.folder / "search.yaml").write_text(yaml.safe_dump(begun.model_dump(mode="json")))


@pytest.mark.parametrize("seen_from", ["outside", "beside", "inside"])
def test_a_run_is_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seen_from: str
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = config(Path("results"))
    begin(begun)
    assert load_config(tmp_path / "results/run/search.yaml") == begun
    place, folder = {
        "outside": (tmp_path, "results/run"),
        "beside": (tmp_path / "results", "run"),
        "inside": (tmp_path / "results/run", "."),
    }[seen_from]
    monkeypatch.chdir(place)
    status(Path(folder))
    assert "run: 0 of 10 candidates" in capsys.readouterr().out


@pytest.mark.parametrize("original", ["at its place", "gone"])
def test_a_copied_or_renamed_folder_shows_its_own_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], original: str
) -> None:
    begun, copy = config(tmp_path), tmp_path / "other/copy"
    begin(begun)
    shutil.copytree(begun.folder, copy)
    if original == "gone":
        shutil.rmtree(begun.folder)
    else:
        with sole_driver(begun) as (ledger, _):
            ledger.record(Trial(0, 0, (), "d", 0.5), (), {})
    for place in (copy, copy / "search.yaml"):
        status(place)
        assert "run: 0 of 10 candidates" in capsys.readouterr().out
        assert config_at(place).folder == copy
    with pytest.raises(RunError, match=f"{re.escape(str(copy))}: the run has not ended yet"):
        report(copy)
