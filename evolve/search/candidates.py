"""Candidates from trials, trials from other trials: what a recipe was, without asking for it again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from engine.recipe import Recipe
from evolve.search.race import Finish
from evolve.statistics.paired import standard_error
from evolve.trial import Candidate, Failure, Trial
from search_spaces.space import SearchSpace
from tasks.objective import Objective, weighted_mean


def candidate_of(trial: Trial, space: SearchSpace) -> Candidate:
    """The trial as somebody who races again."""
    return Candidate(trial.id, trial.generation, trial.point, recipe_of(trial, space), trial.origin)


def recipe_of(trial: Trial, space: SearchSpace) -> Recipe:
    """The recipe that a trial was of, from the ledger alone."""
    return space.decode(trial.point) if trial.recipe is None else Recipe.model_validate(trial.recipe)


def data_of(candidate: Candidate) -> dict[str, Any] | None:
    """What the ledger has to hold to know the recipe: nothing where the point tells it."""
    return None if candidate.point else candidate.recipe.model_dump(mode="json", exclude_none=True)


def copy_of(trial: Trial, candidate: Candidate) -> Trial:
    """The trial of another candidate with the same recipe: nothing was scored for it."""
    return replace(
        trial,
        id=candidate.id,
        generation=candidate.generation,
        point=candidate.point,
        origin=candidate.origin,
        recipe=data_of(candidate),
        documents=0,
        seconds={},
        finished=time.time(),
    )


def trial_of(
    candidate: Candidate, finish: Finish, parts: dict[str, float], objective: Objective, *, whole: bool
) -> Trial:
    """What became of a candidate. `parts`: what each task came to, `whole`: on all documents."""
    evaluation, utilities = finish.evaluation, finish.utilities
    blank = Trial(
        id=candidate.id,
        generation=candidate.generation,
        point=candidate.point,
        digest=candidate.recipe.digest,
        value=None,
        seconds=evaluation.seconds,
        finished=time.time(),
        origin=candidate.origin,
        recipe=data_of(candidate),
    )
    outcome = evaluation.outcome
    if isinstance(outcome, Failure):
        return replace(blank, failure=outcome)
    if utilities is None:
        what = "the objective is not finite: an answer has no probability, or a perplexity overflows"
        return replace(blank, failure=Failure("not finite", what))
    weights = objective.weights
    return replace(
        blank,
        value=weighted_mean(parts, weights),
        standard_error=standard_error(utilities, weights),
        documents=sum(map(len, utilities.values())),
        tasks=objective.metrics(outcome.measures),
        loglikelihoods=objective.loglikelihoods(outcome.measures),
        parts=parts,
        errors={task: standard_error({task: its}, {task: 1.0}) for task, its in utilities.items()},
        whole=whole,
    )
