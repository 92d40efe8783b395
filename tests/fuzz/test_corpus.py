"""What fuzzing found (results/fuzz), put to the parsers again: each input is read, or refused in words for users."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import pytest

from results.fuzz.parsers import PARSERS, TOLD

CORPUS = Path(__file__).with_name("corpus")
SECONDS = 20


@pytest.fixture
def in_time() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_every_parser_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(PARSERS)


@pytest.mark.usefixtures("in_time")
@pytest.mark.filterwarnings("ignore")  # of libraries, about what is in the inputs
@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    parser = PARSERS[name]
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert inputs
    for number, data in enumerate([*parser.seeds(), *inputs]):
        folder = tmp_path / str(number)
        folder.mkdir()
        signal.alarm(SECONDS)
        with suppress(*TOLD):
            parser.read(data, folder)
