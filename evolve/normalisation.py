"""What a task's distance from the base to its best source is worth, for `score.normalize: true`.

Without it a task with forty points between base and expert outweighs one with four. Parts become
(value - base) / (best source - base): 0 at the base, 1 at the best source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evolve.baselines import BASE, model_recipes
from evolve.errors import RunError
from evolve.executor import Executor
from evolve.statistics import standard_error
from evolve.trial import Failure, Job
from search_spaces.depth import Family
from tasks.objective import Objective, Utilities, mean_over_tasks

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


def measured_gaps(family: Family, objective: Objective, executor: Executor) -> dict[str, float]:
    """`gaps` of the base and the sources on the search documents: known answers are not asked for again.

    Raises RunError where the base or all sources have no finite score.
    """
    recipes = model_recipes(family)
    jobs = {recipe.digest: Job(recipe.digest, "search", recipe) for recipe in recipes.values()}
    found: dict[str, Utilities] = {}
    for job, evaluation in executor.run(list(jobs.values())):
        if not isinstance(evaluation.outcome, Failure):
            utilities = objective.utilities(evaluation.outcome.measures)
            if math.isfinite(mean_over_tasks(utilities, objective.weights)):
                found[job.key] = utilities
    base = found.get(recipes[BASE].digest)
    sources = [found[each.digest] for name, each in recipes.items() if name != BASE and each.digest in found]
    if base is None or not sources:
        raise RunError(
            "score.normalize: the base or every source has no finite score on the search documents, so there is no "
            "distance between them; set it to false"
        )
    return gaps(means(base), [means(each) for each in sources], errors(base, sources))


def means(utilities: Utilities) -> dict[str, float]:
    return {task: mean_over_tasks({task: values}, {task: 1.0}) for task, values in utilities.items()}


def errors(base: Utilities, sources: Sequence[Utilities]) -> dict[str, float]:
    """Task -> the largest standard error of a source's paired difference to the base."""
    result = {}
    for task, values in base.items():
        differences = [{each: source[task][each] - value for each, value in values.items()} for source in sources]
        result[task] = max(standard_error({task: gap}, {task: 1.0}) for gap in differences)
    return result
