"""Documents by what they were scored for: what a climb was charged, and what a rival met on later draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from evolve.conclusion.finalists import Finalist
from evolve.conclusion.selection import Selection
from evolve.conclusion.simplify import Step
from evolve.conclusion.tally import tally
from evolve.trial import Trial
from tasks.objective import Goal, Objective

RECIPE: Any = SimpleNamespace(digest="d")


def setting(sample: int | None) -> Any:
    """Two tasks of 16 search and 40 report documents."""
    sets = SimpleNamespace(search=tuple(range(16)), report=tuple(range(40)))
    return SimpleNamespace(
        config=SimpleNamespace(
            seed=0, search=SimpleNamespace(race=True, sample=sample), score=SimpleNamespace(floors={})
        ),
        prepared=SimpleNamespace(documents={"t": sets, "u": sets}),
        problem=SimpleNamespace(objectives=1),
        objective=Objective((Goal("t", "acc,none", 1.0, True), Goal("u", "acc,none", 1.0, True))),
    )


def test_every_stage_has_its_documents() -> None:
    trials = [
        Trial(n, n // 2, (0.5,), "d", 0.5, documents=32, origin="search" if n else "start: base") for n in range(6)
    ]
    events: list[dict[str, Any]] = [{"kind": "slopes", "documents": 72}] * 3 + [
        {"kind": "worth", "documents": 80},
        {"kind": "start"},
    ]
    winner = Finalist("trial 1", RECIPE, 0.5, documents=80)
    simple = Finalist("trial 1, simplified", RECIPE, None, documents=80, of="trial 1")
    selection = Selection((simple, winner), (Finalist("trial 2", RECIPE, 0.4, documents=16),), {})
    steps = [Step("one block", True, 0.0, 0.0, 80), Step("1 decimal", False, -0.5, 0.1, 16)]
    found = tally(setting(None), trials, events, selection, steps, rows=5)
    assert [*found.values()] == [6 * 32, 3 * 72, 80, 96, 96, 5 * 80]


def test_the_rival_of_later_draws_is_counted() -> None:
    trials = [Trial(n, n, (0.5,), "d", 0.5, documents=8, origin="search") for n in range(2)]
    found = tally(setting(4), trials, [], Selection((), (), {}), [], rows=0)
    assert next(iter(found.values())) == 2 * 8 + 2 * 8, (
        "draws of 4 of 16 documents a task, the first three of which differ"
    )
