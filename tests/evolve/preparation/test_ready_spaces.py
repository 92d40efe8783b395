"""Every search.yaml of search_spaces/ is one that `evolve check` accepts, and says from where it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.by_hand.show import spaces
from evolve.config.search_yaml import load_config
from evolve.preparation.check import check

ROOT = Path(__file__).parents[3]
READY = sorted((ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_it_can_be_run(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    assert file.read_text().startswith(
        f"# Run from the repository's root, which the paths are relative to: evolve run {file.relative_to(ROOT)}\n"
    )
    check(file, timed=False)
    said = capsys.readouterr().out
    assert "all is well" in said
    assert "warning" not in said
    assert load_config(file).name == f"space-{file.stem.replace('_', '-')}"


def test_there_is_one_for_each_kind_and_they_are_shown() -> None:
    kinds = "blocks floors layer_order method_choice modules negative pareto per_layer scale smooth subset uniform"
    assert [file.stem for file in READY] == kinds.split()
    shown = "\n".join(spaces())
    assert all(f"search_spaces/{file.name}: " in shown for file in READY)
