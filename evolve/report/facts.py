"""What report.md is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolve.config.search_yaml import SearchConfig
from evolve.report.figures import Figures
from evolve.trial import Trial


@dataclass(frozen=True)
class Facts:
    """Everything the report is made from; `verdict` is `Verdict.as_dict()`."""

    config: SearchConfig
    figures: Figures
    trials: Sequence[Trial]
    verdict: dict[str, Any]
    recipe: str
    openings: Sequence[dict[str, Any]]
    documents: dict[str, dict[str, int]]  # task -> set -> number of documents
    benchmarks: Sequence[str]
    dtype: str  # of the scored models
    reserved: Sequence[str]  # tasks whose few-shot examples were set aside from the scored split
    opening: str = ""  # the candidate of every search's beginning that the winner is, in words
