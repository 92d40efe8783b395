"""Results come home whole or not at all, go on where they stopped, and stay in their folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evolve.errors import RunError
from evolve.submission import fetching
from evolve.submission.fetching import client_address, fetch


class Cluster:
    """The functions that a cluster would run, in threads here; the network may fail after some calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.last = 10**9
        self.at_once = False  # a call that cannot be made, beside one that is not answered
        self.answers: dict[str, Any] = {}

    @contextmanager
    def reading(self, address: str, node: str | None) -> Iterator[Callable[..., Future[Any]]]:
        with ThreadPoolExecutor(2) as pool:

            def call(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
                self.calls.append((function.__name__, arguments))
                if len(self.calls) > self.last:
                    return self.fail() if self.at_once else pool.submit(self.fail)
                if function.__name__ in self.answers:
                    return pool.submit(lambda: self.answers[function.__name__])
                return pool.submit(function, *arguments)

            yield call

    def fail(self) -> Any:
        raise ConnectionError("cut")

    def bytes_asked(self) -> int:
        return sum(arguments[3] for name, arguments in self.calls if name == "piece")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(fetching, "reading", made.reading)
    monkeypatch.setattr(fetching, "PIECE", 1000)
    return made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "there/run"
    contents = {
        "best.yaml": b"recipe",
        "checkpoint/model.safetensors": bytes(range(256)) * 50,
        "report.md": b"",
        "items/search.parquet": b"many",
        ".report.md.x.unfinished": b"half",
    }
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def brought(run: Path, out: Path, checkpoint: bool = True, whole: bool = False) -> set[str]:
    fetch("run", "http://head:8265", out, None, str(run), checkpoint, whole)
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_a_run_comes_home(cluster: Cluster, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "home/run"
    assert brought(run, out) == {"best.yaml", "checkpoint/model.safetensors", "report.md"}
    assert (out / "checkpoint/model.safetensors").read_bytes() == bytes(range(256)) * 50
    assert [each.name for each in out.parent.iterdir()] == ["run"]
    assert f"3 files, 12.5 KiB, every digest verified: {out}" in capsys.readouterr().out
    assert brought(run, tmp_path / "small", checkpoint=False) == {"best.yaml", "report.md"}
    assert "items/search.parquet" in brought(run, tmp_path / "all", whole=True)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_cut_connection_costs_what_was_under_way(cluster: Cluster, run: Path, tmp_path: Path, at_once: bool) -> None:
    out = tmp_path / "run"
    cluster.last, cluster.at_once = 10, at_once
    with pytest.raises(RunError, match="answers no longer \\(cut\\); the same command goes on"):
        brought(run, out)
    assert not out.exists()
    cluster.last = 10**9
    cluster.calls.clear()
    assert "checkpoint/model.safetensors" in brought(run, out)
    assert 0 < cluster.bytes_asked() < 12_800 - 2000
    assert (out / "checkpoint/model.safetensors").read_bytes() == bytes(range(256)) * 50


def test_pieces_of_an_earlier_file_are_fetched_again(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    cluster.last = 10
    with pytest.raises(RunError):
        brought(run, tmp_path / "run")
    cluster.last = 10**9
    (run / "checkpoint/model.safetensors").write_bytes(bytes(12_800))
    brought(run, tmp_path / "run")
    assert (tmp_path / "run/checkpoint/model.safetensors").read_bytes() == bytes(12_800)


def test_what_comes_otherwise_is_never_taken(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    cluster.answers["digest"] = "0" * 64
    with pytest.raises(RunError, match=r"best.yaml: came otherwise than it is on the cluster"):
        brought(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\x", "", "a\0b"])
def test_paths_that_leave_the_folder_are_refused(cluster: Cluster, run: Path, tmp_path: Path, name: str) -> None:
    cluster.answers["listing"] = [("best.yaml", 6), (name, 6)]
    with pytest.raises(RunError, match="does not belong into a run's folder"):
        brought(run, tmp_path / "home/run")
    assert not (tmp_path / "home").exists()


def test_a_folder_that_cannot_be_made_is_one_message(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    cluster.answers = {"listing": [("report.md", 0), ("report.md/x", 0)], "digest": hashlib.sha256(b"").hexdigest()}
    with pytest.raises(RunError, match="cannot be written"):
        brought(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_links_stay_where_they_are(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (run / "log.jsonl").symlink_to(tmp_path / "secret")
    assert "log.jsonl" not in brought(run, tmp_path / "run")


def test_what_is_there_is_not_touched(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").write_text("x")
    with pytest.raises(RunError, match="is there already; name another folder"):
        brought(run, tmp_path / "run")
    assert not cluster.calls


def test_a_folder_that_is_not_there_is_told(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not there on the cluster's head"):
        brought(tmp_path / "none", tmp_path / "run")


def test_a_full_disk_is_told_before_anything_comes(
    cluster: Cluster, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SPARE", 2**60)
    with pytest.raises(RunError, match=r"are free, the results need .*--no-checkpoint"):
        brought(run, tmp_path / "run")


def test_the_client_server_is_on_the_same_host() -> None:
    assert client_address("http://head:8265") == "ray://head:10001"
    assert client_address("https://[::1]:8265") == "ray://[::1]:10001"
