"""The end of a run tells what it can, and what it cannot work out costs nothing of the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from evolve.conclusion.ending import genes_told
from evolve.trial import Trial
from search_spaces.gene import Gene


def test_genes_that_cannot_be_told_are_left_out_and_said() -> None:
    said: list[str] = []
    setting: Any = SimpleNamespace(space=SimpleNamespace(genes=(Gene("a"), Gene("b"))), config=SimpleNamespace(seed=0))
    ledger: Any = SimpleNamespace(events=list)
    log: Any = SimpleNamespace(say=said.append)
    good = [Trial(n, n // 8, (n % 5 / 5, n % 3 / 3), "d", n % 7 / 7) for n in range(40)]
    assert genes_told(setting, good, ledger, log) is not None
    assert not said
    damaged = [Trial(n, n // 8, (0.5,), "d", n % 7 / 7) for n in range(40)]
    assert genes_told(setting, damaged, ledger, log) is None
    assert "which genes mattered: left out of the report" in said[0]
