"""Candidates from trials, trials from other trials: what a recipe was, without asking for it again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from engine.recipe import Recipe
from evolve.trial import Candidate, Trial
from search_spaces.space import SearchSpace


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
