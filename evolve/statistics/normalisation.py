"""What a task's distance from the base to its best source is worth, for `score.normalize: true`.

Without it a task with forty points between base and expert outweighs one with four. Parts become
(value - base) / (best source - base): 0 at the base, 1 at the best source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SMALLEST_IN_ERRORS = 2.0  # a gap counts as at least so many standard errors of it: below, it is mostly noise
SMALLEST = 1e-6  # of models that answer alike, without any noise


def gaps(
    base_parts: Mapping[str, float], source_parts: Sequence[Mapping[str, float]], errors: Mapping[str, float]
) -> dict[str, float]:
    """Task -> best source minus base on the search documents, both the objective's parts, always above 0.

    `errors`: task -> standard error of a difference between two models on those documents. A gap that is smaller than
    `SMALLEST_IN_ERRORS` of them, or where no source is better than the base, is widened to that: dividing by noise
    would let the task that nobody can move decide everything.
    """
    return {
        task: max(
            max((parts[task] for parts in source_parts), default=base) - base,
            SMALLEST_IN_ERRORS * errors.get(task, 0.0),
            SMALLEST,
        )
        for task, base in base_parts.items()
    }
