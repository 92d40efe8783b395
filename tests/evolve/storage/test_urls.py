"""What is wrong with a storage's URL is said with its value, and never with a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.errors import RunError
from evolve.storage.urls import check_file, check_url, file_of, hidden

PROBLEMS = {
    "x.db": "run.storage (x.db): is not a database URL; write sqlite:///x.db, or one such as postgresql://",
    "/folder/x": "run.storage (/folder/x): is not a database URL; write sqlite:////folder/x, or one such",
    "nonsense": "run.storage (nonsense): is not a database URL; write one such as postgresql://",
    "postgres//me:hunter2@host/db": "run.storage (***@host/db): is not a database URL; write one such as",
    "postgresql://me:hunter2@host:port/db?password=hunter2": "run.storage (***@host:port/db): is not",
    "postgresql://me:hunter2": "run.storage (postgresql:...): is not a database URL",
    "host=h.org password=hunter2 dbname=x": "run.storage (...): is not a database URL; write one such as",
    "password=hunter2 host=h": "run.storage (...): is not",
    "h hunter2 x.db": "run.storage (...): is not a database URL; write one such as",
    "journal://me:hunter2@h/x": "run.storage (journal:***@h/x): names a host; write journal:///folder/file",
    "journal://me:hunter2@h/": "run.storage (journal:***@h/): names a host",
    "foo://bar": "run.storage (foo://bar): foo is no kind of storage; known are sqlite, journal, postgresql, mysql",
    "postgres://me:hunter2@host/db": "(postgres://me:***@host/db): postgres is no kind of storage; did you mean "
    "'postgresql'?; known are",
    "postgresql+foo://host/db": "foo is no driver of postgresql; write postgresql://... without one",
    "sqlite://": "names no file; write sqlite:///folder/file.db",
    "sqlite:///:memory:": "names no file; write sqlite:///folder/file.db",
}


@pytest.mark.parametrize("url", PROBLEMS)
def test_what_is_no_storage(url: str) -> None:
    with pytest.raises(RunError) as caught:
        check_url(url)
    assert PROBLEMS[url] in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["sqlite:///x.db", "journal:x", "journal:///a@b/x", "postgresql://h/d", "mysql://h/d", "mariadb://h/d"]
)
def test_what_is_one(url: str) -> None:
    check_url(url)
    assert hidden(url) == url


def test_only_files_are_files() -> None:
    assert file_of("sqlite:////folder/x.db") == Path("/folder/x.db")
    assert file_of("journal:x.log") == Path("x.log")
    for url in ("postgresql://h/d", "sqlite:///file:x.db?mode=ro&uri=true", "sqlite://"):
        assert file_of(url) is None


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
def test_a_file_whose_folder_is_missing(tmp_path: Path, kind: str) -> None:
    made = tmp_path / "results/run"
    for folder in (made, tmp_path / "results", tmp_path):  # which a run makes where they are missing
        check_file(f"{kind}{folder / 'x.db'}", made)
    with pytest.raises(RunError, match=rf"^run\.storage \(.*x\.db\): there is no folder {tmp_path}/none; make it, or"):
        check_file(f"{kind}{tmp_path / 'none/x.db'}", made)
    with pytest.raises(RunError, match=rf"{tmp_path} is a folder; name a file in it"):
        check_file(f"{kind}{tmp_path}", made)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"/proc/sys/kernel/osrelease cannot be written; make it writable"):
        check_file("sqlite:////proc/sys/kernel/osrelease", tmp_path)
