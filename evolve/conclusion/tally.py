"""How many documents a run asked answers to, by what for. An answer on record is not asked for again, but counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evolve.conclusion.selection import Selection
from evolve.conclusion.simplify import Step
from evolve.preparation.course import draws_of
from evolve.preparation.setting import Setting
from evolve.search.loop import SLOPES
from evolve.search.study import SEARCH, pairs_of
from evolve.trial import Trial

CANDIDATES, GRADIENTS, WORTH = "the search's candidates", "gradients (as charged)", "the question of worth"
FINALISTS, SIMPLER, REPORT = "finalists", "simpler recipes", "the report"


def tally(
    setting: Setting,
    trials: Sequence[Trial],
    events: Sequence[dict[str, Any]],
    selection: Selection,
    steps: Sequence[Step],
    rows: int,
) -> dict[str, int]:
    """What for -> documents. `rows`: the models of the report."""
    finalists = [each for each in (*selection.ranked, *selection.dropped) if not each.of]
    report = sum(len(sets.report) for sets in setting.prepared.documents.values())
    return {
        CANDIDATES: sum(trial.documents for trial in trials) + again(setting, trials),
        GRADIENTS: charged(events, SLOPES),
        WORTH: charged(events, "worth"),
        FINALISTS: sum(each.documents for each in finalists),
        SIMPLER: sum(step.documents for step in steps),
        REPORT: rows * report,
    }


def charged(events: Sequence[dict[str, Any]], kind: str) -> int:
    """What the decisions were charged whose kinds begin so."""
    return sum(event["documents"] for event in events if event["kind"].startswith(kind))


def again(setting: Setting, trials: Sequence[Trial]) -> int:
    """What the best of the start was scored on beside the first draw, where generations have draws of their own."""
    draws = draws_of(setting)
    if not draws.vary:
        return 0
    generations = len({trial.generation for trial in trials if trial.origin == SEARCH})
    met = set().union(*(pairs_of(draws.chunks(draw)[-1]) for draw in range(generations + 1)))
    return len(met) - draws.size
