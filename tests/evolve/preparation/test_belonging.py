"""A run's folder keeps to one ledger, wherever that is moved."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend, JournalStorage

from evolve.config.search_yaml import SearchConfig
from evolve.errors import RunError
from evolve.preparation.belonging import ID, MARK, check_storage, mark_of, place_of
from evolve.preparation.guard import guard, sole_driver
from evolve.preparation.preflight import preflight
from evolve.trial import Trial
from search_spaces.gene import Gene


def config(output: Path, storage: str | None = None, name: str = "run") -> SearchConfig:
    data: dict[str, Any] = {
        "name": name,
        "models": {"base": "b", "sources": ["s"]},
        "score": {"tasks": [{"task": "t", "metric": "acc"}]},
        "run": {"output": str(output), "storage": storage},
    }
    return SearchConfig.model_validate(data)


def start(asked: SearchConfig, said: list[str] | None = None) -> int:
    """A start that records a trial; how many were there before."""
    with sole_driver(asked, (said if said is not None else []).append) as (ledger, _):
        guard(ledger, asked, {})
        (asked.folder / "search.yaml").write_text(yaml.safe_dump(asked.model_dump(mode="json")))
        before = len(ledger.trials())
        ledger.record(Trial(before, 0, (0.5,), "d", 0.5), (Gene("g"),), {"g": 0.5})
    return before


def other(folder: Path) -> str:
    return f"sqlite:///{folder / 'other.db'}"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@pytest.mark.parametrize("marked", [True, False], ids=["", "begun by an earlier version"])
def test_another_storage_is_refused_and_left_as_it_is(tmp_path: Path, kind: str, marked: bool) -> None:
    start(config(tmp_path))
    if not marked:
        (tmp_path / "run" / MARK).unlink()
    file = tmp_path / "other"
    url = {"sqlite": f"sqlite:///{file}", "journal": f"journal:{file}"}[kind]
    told = (
        rf"^run\.storage \({re.escape(url)}\): holds no run named run, while .*/run was made with the ledger study\.db"
    )
    with pytest.raises(RunError, match=told + r"; put run\.storage back \(null\), choose another name"):
        start(config(tmp_path, url))
    assert not file.exists()
    assert start(config(tmp_path)) == 1


def test_another_run_of_the_name_is_another_ledger(tmp_path: Path) -> None:
    start(config(tmp_path))
    start(config(tmp_path / "elsewhere", other(tmp_path)))
    with pytest.raises(RunError, match="holds another run named run"):
        start(config(tmp_path, other(tmp_path)))


def test_back_to_the_run_s_own_file(tmp_path: Path) -> None:
    start(config(tmp_path, other(tmp_path)))
    place = re.escape(f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(RunError, match=rf"made with the ledger {place}; put run\.storage back \({place}\)"):
        start(config(tmp_path))
    assert not (tmp_path / "run/study.db").exists()


def test_a_folder_goes_on_wherever_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(config(tmp_path))
    shutil.copytree(tmp_path / "run", tmp_path / "there/run")
    shutil.rmtree(tmp_path / "run")
    assert start(config(tmp_path / "there")) == 1
    monkeypatch.chdir(tmp_path / "there")
    assert start(config(Path(), "sqlite:///run/study.db")) == 2  # the same file by another name


def test_a_ledger_goes_on_wherever_it_is_moved(tmp_path: Path) -> None:
    start(config(tmp_path, other(tmp_path)))
    (tmp_path / "other.db").rename(tmp_path / "moved.db")
    moved = config(tmp_path, f"sqlite:///{tmp_path / 'moved.db'}")
    assert start(moved) == 1
    known = mark_of(moved)
    assert known is not None
    assert known.storage == f"sqlite:///{tmp_path / 'moved.db'}"


def test_a_ledger_is_moved_to_another_kind_as_the_docs_say(tmp_path: Path) -> None:
    start(config(tmp_path))
    optuna.copy_study(
        from_study_name="run",
        from_storage=f"sqlite:///{tmp_path / 'run/study.db'}",
        to_storage=JournalStorage(JournalFileBackend(str(tmp_path / "runs.log"))),
    )
    assert start(config(tmp_path, f"journal:{tmp_path / 'runs.log'}")) == 1


def test_runs_of_earlier_versions_go_on_and_are_marked(tmp_path: Path) -> None:
    start(config(tmp_path))
    (tmp_path / "run" / MARK).unlink()
    with sole_driver(config(tmp_path)) as (ledger, _):
        ledger.set_attribute(ID, None)
    assert start(config(tmp_path)) == 1
    with sole_driver(config(tmp_path)) as (ledger, _):
        told = ledger.attribute(ID)
    found = json.loads((tmp_path / "run" / MARK).read_text())
    assert found == {"run": "run", "id": told, "storage": "study.db", "host": ""}


def test_a_folder_that_is_lost_is_made_again(tmp_path: Path) -> None:
    start(config(tmp_path, other(tmp_path)))
    shutil.rmtree(tmp_path / "run")
    assert start(config(tmp_path, other(tmp_path))) == 1
    assert start(config(tmp_path, other(tmp_path))) == 2


def test_who_removes_the_ledger_begins_anew(tmp_path: Path) -> None:
    start(config(tmp_path))
    (tmp_path / "run/study.db").unlink()
    said: list[str] = []
    assert start(config(tmp_path), said) == 0
    assert said == ["warning: study.db holds no run named run any more; the search begins anew"]
    assert start(config(tmp_path), said) == 1
    assert len(said) == 1


def test_a_copy_of_a_folder_under_another_name_is_another_run(tmp_path: Path) -> None:
    start(config(tmp_path))
    shutil.copytree(tmp_path / "run", tmp_path / "next")
    said: list[str] = []
    assert start(config(tmp_path, other(tmp_path), name="next"), said) == 0
    assert said == [
        f"warning: {tmp_path}/next holds what the run 'run' found, and next writes over it; to go on with that run, "
        "give the folder and `name` that name again"
    ]
    assert start(config(tmp_path, other(tmp_path), name="next"), said) == 1
    assert len(said) == 1


def test_another_ledger_in_the_place_is_told_as_that(tmp_path: Path) -> None:
    start(config(tmp_path))
    start(config(tmp_path / "elsewhere"))
    shutil.copy(tmp_path / "elsewhere/run/study.db", tmp_path / "run/study.db")
    mark = tmp_path / "run" / MARK
    told = (
        rf"holds another run named run, .* that stood there before; put that one back, or remove {re.escape(str(mark))}"
    )
    with pytest.raises(RunError, match=told + " to go on with the ledger that stands there$"):
        start(config(tmp_path))
    mark.unlink()
    assert start(config(tmp_path)) == 1


def test_a_start_that_was_killed_before_the_ledger_had_its_id_goes_on(tmp_path: Path) -> None:
    start(config(tmp_path))
    with sole_driver(config(tmp_path)) as (ledger, _):
        ledger.set_attribute(ID, None)
    assert start(config(tmp_path)) == 1
    with sole_driver(config(tmp_path)) as (ledger, _):
        assert ledger.attribute(ID) == json.loads((tmp_path / "run" / MARK).read_text())["id"]


def test_the_folder_has_the_id_before_the_ledger(tmp_path: Path) -> None:
    """A ledger with an id that its folder does not know would be another run's."""
    with sole_driver(config(tmp_path)) as (ledger, _):
        (tmp_path / "run" / MARK).mkdir()  # it cannot be written
        with pytest.raises(RunError, match=MARK):
            guard(ledger, config(tmp_path), {})
        assert ledger.attribute(ID) is None


def test_a_copy_from_before_there_were_ids_is_taken_at_another_place(tmp_path: Path) -> None:
    start(config(tmp_path, other(tmp_path)))
    shutil.copy(tmp_path / "other.db", tmp_path / "restored.db")
    restored = config(tmp_path, f"sqlite:///{tmp_path / 'restored.db'}")
    with sole_driver(config(tmp_path / "elsewhere", restored.run.storage)) as (ledger, _):
        ledger.set_attribute(ID, None)
    assert start(restored) == 1
    with sole_driver(config(tmp_path / "elsewhere", f"sqlite:///{tmp_path / 'empty.db'}")):
        pass  # a start that was killed at once
    with pytest.raises(RunError, match="holds another run named run"):
        start(config(tmp_path, f"sqlite:///{tmp_path / 'empty.db'}"))


def test_a_file_of_another_machine_is_not_gone(tmp_path: Path) -> None:
    asked = config(tmp_path, other(tmp_path))
    start(asked)
    mark = tmp_path / "run" / MARK
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "host": "head-2"}))
    assert start(asked) == 1  # a folder that both machines see
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "host": "head-2"}))
    (tmp_path / "other.db").unlink()
    with pytest.raises(RunError, match=r"holds no run named run, .* the ledger there on head-2; put .* to begin anew$"):
        start(asked)
    assert not (tmp_path / "other.db").exists()
    mark.unlink()
    assert start(asked) == 0


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_results_folder_that_cannot_be_written_is_not_the_storage_s_fault() -> None:
    check_storage(config(Path("/proc/sys"), name="kernel"))  # told by run.output's own check
    with pytest.raises(RunError, match=r"^run\.storage .*/proc/sys/kernel cannot be written"):
        check_storage(config(Path("/proc/sys"), "sqlite:////proc/sys/kernel/x.db", name="kernel"))


@pytest.mark.parametrize("text", ["", "[]", '{"run": 1}', "\0"])
def test_a_mark_that_is_none_is_written_anew(tmp_path: Path, text: str) -> None:
    start(config(tmp_path))
    (tmp_path / "run" / MARK).write_text(text)
    assert start(config(tmp_path)) == 1
    assert json.loads((tmp_path / "run" / MARK).read_text())["storage"] == "study.db"


def test_what_is_wrong_with_a_storage_is_told_before_models_are_opened(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("no database\n")
    for url, told in {
        "foo://bar": "foo is no kind of storage",
        "mysql+mysqldb://me:hunter2@127.0.0.1:1/db": "install the driver|check that it can be reached",
        "postgresql://me:hunter2@127.0.0.1:1/db": "Connection refused.*check that it can be reached",
        f"sqlite:///{tmp_path}/none/x.db": "there is no folder",
        f"sqlite:///{mine}": "file is not a database",
        f"journal:{mine}": "is damaged",
    }.items():
        with pytest.raises(RunError, match=rf"^run\.storage.*({told})") as caught:
            preflight(config(tmp_path / "results", url))
        assert "hunter2" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_looking_at_a_storage_makes_nothing_in_it(tmp_path: Path) -> None:
    check_storage(config(tmp_path))
    check_storage(config(tmp_path, other(tmp_path)))
    check_storage(config(tmp_path, f"journal:{tmp_path}/runs.log"))
    assert list(tmp_path.iterdir()) == []
    start(config(tmp_path / "a", other(tmp_path)))
    start(config(tmp_path / "a", f"journal:{tmp_path}/runs.log", name="next"))
    before = [(tmp_path / name).read_bytes() for name in ("other.db", "runs.log")]
    check_storage(config(tmp_path / "b", other(tmp_path), name="new"))
    check_storage(config(tmp_path / "b", f"journal:{tmp_path}/runs.log", name="new"))
    assert [(tmp_path / name).read_bytes() for name in ("other.db", "runs.log")] == before
    with pytest.raises(RunError, match="holds no run named run, while"):
        check_storage(config(tmp_path / "a", f"journal:{tmp_path}/runs.log"))


def test_no_password_is_written(tmp_path: Path) -> None:
    url = "postgresql+psycopg2://me:hunter2@host:5432/db?password=hunter3"
    assert place_of(config(tmp_path, url)) == "postgresql://host:5432/db"
    assert place_of(config(tmp_path, "mysql://me:hunter2@host/db")) == "mysql://host/db"


def test_a_server_that_moved_holds_the_same_ledger(tmp_path: Path, postgresql: str) -> None:
    start(config(tmp_path, postgresql, name="moves"))
    moved = postgresql.replace("127.0.0.1", "localhost")
    assert start(config(tmp_path, moved, name="moves")) == 1
    with pytest.raises(RunError, match=r"made with the ledger postgresql://localhost:\d+/postgres; put"):
        start(config(tmp_path, name="moves"))
