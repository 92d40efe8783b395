"""How long a job may take before its worker is given up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evolve.trial import Documents, Job


@dataclass(frozen=True)
class TimeLimit:
    """`minutes` for as many documents as a candidate of the search is scored on, or fewer (None: no limit), and in
    proportion for more; `documents`: how many those are in each set, over all tasks."""

    minutes: float | None
    documents: Mapping[Documents, int]

    def seconds(self, job: Job) -> float:
        """What the job may take, infinite where there is no limit."""
        if self.minutes is None:
            return math.inf
        asked = self.documents[job.documents] if job.only is None else sum(map(len, job.only.values()))
        return 60 * self.minutes * max(1.0, asked / max(1, self.documents["search"]))


NO_LIMIT = TimeLimit(None, {})
