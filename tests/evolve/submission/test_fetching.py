"""Results come home whole or not at all, go on where they stopped, and stay in their folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from evolve.config.search_yaml import SearchConfig
from evolve.errors import RunError
from evolve.preparation.guard import guard, sole_driver
from evolve.storage.ledger import SEARCH_ENDED, START
from evolve.submission import fetching
from evolve.submission.fetched import aside
from evolve.submission.fetching import client_address, fetch
from evolve.trial import Trial
from evolve.watching.status import status
from search_spaces.gene import Gene


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
        "search.yaml": b"name: run\n",
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


SMALL = {"search.yaml", "best.yaml", "report.md", ".fetched.json"}


def brought(run: Path, out: Path, checkpoint: bool = True, whole: bool = False) -> set[str]:
    fetch("run", "http://head:8265", out, None, str(run), checkpoint, whole)
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_a_run_comes_home(cluster: Cluster, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "home/run"
    assert brought(run, out) == {*SMALL, "checkpoint/model.safetensors"}
    assert (out / "checkpoint/model.safetensors").read_bytes() == bytes(range(256)) * 50
    assert [each.name for each in out.parent.iterdir()] == ["run"]
    assert capsys.readouterr().out.endswith(f"\n4 files, 12.5 KiB, every digest verified: {out}\n")
    assert brought(run, tmp_path / "small", checkpoint=False) == SMALL
    assert "items/search.parquet" in brought(run, tmp_path / "all", whole=True)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_cut_connection_costs_what_was_under_way(cluster: Cluster, run: Path, tmp_path: Path, at_once: bool) -> None:
    out = tmp_path / "run"
    cluster.last, cluster.at_once = 11, at_once
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
    for text in (
        "",
        "[]",
        "{}",
        '{"run": "run", "folder": "", "files": 3}',
        '{"run": "other", "folder": "", "files": {}}',
    ):
        (tmp_path / "run/.fetched.json").write_text(text)
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


def test_an_update_needs_room_for_what_has_changed_only(
    cluster: Cluster, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, free = tmp_path / "run", 12_000
    brought(run, out)
    monkeypatch.setattr(fetching, "SPARE", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    (run / "best.yaml").write_bytes(b"another")
    brought(run, out)
    assert (out / "best.yaml").read_bytes() == b"another"
    (out / "checkpoint/model.safetensors").rename(tmp_path / "kept")
    with pytest.raises(RunError, match=r"are free, the results need 12\.5 KiB"):
        brought(run, out)
    (tmp_path / "kept").rename(out / "checkpoint/model.safetensors")
    (run / "checkpoint/model.safetensors").write_bytes(bytes(12_800))
    with pytest.raises(RunError, match=r"11\.7 KiB are free, the results need 12\.5 KiB; free space"):
        brought(run, out)
    free = 12_900
    cluster.last = len(cluster.calls) + 14
    with pytest.raises(RunError, match="answers no longer"):
        brought(run, out)
    free, cluster.last = 11_000, 10**9  # the pieces that have come take it
    brought(run, out)
    assert (out / "checkpoint/model.safetensors").read_bytes() == bytes(12_800)


def test_the_client_server_is_on_the_same_host() -> None:
    assert client_address("http://head:8265") == "ray://head:10001"
    assert client_address("https://[::1]:8265") == "ray://[::1]:10001"


def test_only_the_run_of_that_name_is_brought(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    for text, told in {
        None: "is no run's folder \\(it has no search.yaml\\); give that of run with --from PATH",
        "name: other": "holds the run 'other', not run; give its name",
        "- name": "holds the run None, not run",
        "name: [": "holds the run None, not run",
    }.items():
        (run / "search.yaml").unlink(missing_ok=True)
        if text is not None:
            (run / "search.yaml").write_text(text)
        with pytest.raises(RunError, match=told):
            brought(run, tmp_path / "run")
    assert {name for name, _ in cluster.calls} == {"beginning"}
    assert not (tmp_path / "run").exists()


CONFIG = {
    "name": "run",
    "models": {"base": "b", "sources": ["s"]},
    "score": {"tasks": [{"task": "t", "metric": "acc"}]},
}


def searching(run: Path, trials: int, ended: bool = False) -> None:
    """The driver on the cluster goes on until so many trials are recorded."""
    config = SearchConfig.model_validate({**CONFIG, "run": {"output": str(run.parent)}})
    with sole_driver(config) as (ledger, _):
        guard(ledger, config, {})
        ledger.add_event(START, trials=0)
        for number in range(len(ledger.trials()), trials):
            ledger.record(Trial(number, 0, (0.5,), "d", 0.5), (Gene("g"),), {"g": 0.5})
        if ended:
            ledger.add_event(SEARCH_ENDED, trials=trials, reason="search.trials (200) is used up")
    (run / "search.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))


def test_a_run_that_has_not_ended_is_said_to_be_that_and_brought_up_to_date(
    cluster: Cluster, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "home"
    (run / "best.yaml").rename(tmp_path / "best.yaml")
    (run / "report.md").unlink()
    searching(run, 2)
    brought(run, out)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "run: the run has not ended: 2 of 200 candidates, without best.yaml, report.md; "
        "the same command brings the rest when it has"
    )
    status(out)  # looking changes nothing
    assert "run: 2 of 200 candidates" in capsys.readouterr().out
    (out / "notes/mine.txt").parent.mkdir()
    (out / "notes/mine.txt").write_text("mine")
    searching(run, 5, ended=True)
    (tmp_path / "best.yaml").rename(run / "best.yaml")
    (run / "report.md").write_text("found")
    cluster.calls.clear()
    assert "notes/mine.txt" in brought(run, out, checkpoint=False)
    assert "has not ended" not in capsys.readouterr().out
    status(out)
    assert "run: 5 of 200 candidates" in capsys.readouterr().out
    assert (out / "report.md").read_text() == "found"
    assert (out / "checkpoint/model.safetensors").is_file()
    assert not [each for name, each in cluster.calls if name == "piece" and "checkpoint" in each[1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "there"]


def test_results_of_an_earlier_end_are_said_to_be_that(
    cluster: Cluster, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searching(run, 2)
    brought(run, tmp_path / "home")
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("run: the run has not ended: 2 of 200 candidates, its results are older; ")


def test_a_cut_update_goes_on(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "home"
    brought(run, out)
    (run / "checkpoint/model.safetensors").write_bytes(bytes(12_800))
    (run / "report.md").write_text("found")
    cluster.last = len(cluster.calls) + 10
    with pytest.raises(RunError, match="answers no longer"):
        brought(run, out)
    assert (out / "checkpoint/model.safetensors").read_bytes() == bytes(range(256)) * 50
    cluster.last = 10**9
    brought(run, out)
    assert (out / "checkpoint/model.safetensors").read_bytes() == bytes(12_800)
    assert (out / "report.md").read_text() == "found"


def test_an_update_that_was_cut_while_it_took_its_place(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "home"
    brought(run, out)
    out.rename(aside(out))
    brought(run, out)
    assert (out / "best.yaml").is_file()
    assert not aside(out).exists()


def test_what_was_changed_here_is_not_written_over(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "home"
    brought(run, out)
    (out / "best.yaml").write_text("mine")
    with pytest.raises(RunError, match=r"best\.yaml: was changed here since it was fetched; remove that file, which"):
        brought(run, out)
    (out / "best.yaml").unlink()
    (out / "report.md").write_text("of `evolve report`")
    brought(run, out)
    assert (out / "best.yaml").read_bytes() == b"recipe"
    assert (out / "report.md").read_bytes() == b""
    (out / "trials.csv").write_text("mine")
    brought(run, out)
    (run / "trials.csv").write_text("theirs")
    with pytest.raises(RunError, match=r"trials\.csv: is there already, and was not fetched"):
        brought(run, out)
    assert (out / "trials.csv").read_text() == "mine"


def test_results_come_into_the_working_folder(
    cluster: Cluster, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "home/run"
    (out / "notes").mkdir(parents=True)
    for name in (".", "..", "run/.."):
        monkeypatch.chdir(out)
        with pytest.raises(RunError, match="is there already; name another folder"):
            brought(run, Path(name))
    (out / "notes").rmdir()
    for _ in range(2):
        monkeypatch.chdir(out)
        brought(run, Path())
        assert {*SMALL} <= {path.name for path in out.iterdir()}
    with pytest.raises(RunError, match=r"^/: is there already"):
        brought(run, Path("/"))


def test_another_run_does_not_take_the_place_of_one(cluster: Cluster, run: Path, tmp_path: Path) -> None:
    searching(run, 2)
    out = tmp_path / "home"
    brought(run, out)
    other = run.rename(run.parent / "other")
    with pytest.raises(RunError, match=r"was fetched from .*/there/run, not from .*/there/other; name another folder"):
        brought(other, out)
    other.rename(run)
    (run / "study.db").unlink()
    (run / "ledger.json").unlink()
    searching(run, 1)
    with pytest.raises(RunError, match="holds another run of this name"):
        brought(run, out)
