"""Scores of finalists and baselines are kept, found again, and scored again when they are lost or damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evolve.score_store import ScoreStore
from evolve.trial import Evaluation, Failure, Job
from tasks.score import Score


class Counting:
    """An executor that scores a job by the length of its key, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            self.asked.append(job.key)
            if job.key == "broken":
                yield job, Evaluation(Failure("not finite", "NaN"))
            else:
                value = float(len(job.key))
                score = Score({"t": {3: value, 5: 0.1 + 0.2}}, {"t": value}, {"t": True}, value, {"forward": 1.0})
                yield job, Evaluation(score)

    def close(self) -> None: ...


def jobs(*keys: str) -> dict[str, Job]:
    return {f"name of {key}": Job(key=key, documents="report") for key in keys}


def test_scores_are_kept_exactly_and_asked_once(tmp_path: Path) -> None:
    executor, said = Counting(), []
    first = ScoreStore(tmp_path, "one").scores(jobs("a", "bb"), executor, said.append)
    again = ScoreStore(tmp_path, "one").scores(jobs("a", "bb", "ccc"), executor, said.append)
    assert executor.asked == ["a", "bb", "ccc"]
    assert {name: again[name] for name in first} == first
    assert len(said) == 5


def test_other_documents_or_models_are_other_scores(tmp_path: Path) -> None:
    executor = Counting()
    ScoreStore(tmp_path, "one").scores(jobs("a"), executor, lambda _: None)
    ScoreStore(tmp_path, "two").scores(jobs("a"), executor, lambda _: None)
    ScoreStore(tmp_path, "one").scores({"x": Job(key="a", documents="selection")}, executor, lambda _: None)
    assert executor.asked == ["a", "a", "a"]


def test_two_names_of_one_job_share_its_score(tmp_path: Path) -> None:
    executor = Counting()
    job = Job(key="a", documents="report")
    scores = ScoreStore(tmp_path, "one").scores({"x": job, "y": job}, executor, lambda _: None)
    assert scores["x"] == scores["y"]
    assert executor.asked == ["a"]


def test_damaged_files_are_scored_again_and_failures_are_said(tmp_path: Path) -> None:
    executor, said = Counting(), []
    ScoreStore(tmp_path, "one").scores(jobs("a"), executor, said.append)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:20])
    scores = ScoreStore(tmp_path, "one").scores(jobs("a", "broken"), executor, said.append)
    assert list(scores) == ["name of a"]
    assert executor.asked == ["a", "a", "broken"]
    assert "name of broken failed (not finite): NaN" in said
