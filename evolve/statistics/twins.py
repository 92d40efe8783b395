"""Whether two recipes, or what their models answered, are one merge: other words may say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.checkpoint import Checkpoint
from engine.job import Input, Job
from engine.plan import plan
from engine.recipe import Recipe
from tasks.objective import LOGLIKELIHOOD
from tasks.score import Score

ALIKE = 1e-4  # up to which two log-likelihoods (nats) are one but for rounding


def alike(one: Score, other: Score) -> bool:
    """Whether two models answer alike in every measure of every document, up to the rounding of log-likelihoods, as one
    merge does under two methods. Never without log-likelihoods: right-or-wrong answers may agree by chance."""
    ours, theirs = one.measures, other.measures
    if ours.keys() != theirs.keys() or any(ours[task].keys() != theirs[task].keys() for task in ours):
        return False
    if not any(ours[task].get(LOGLIKELIHOOD) for task in ours):
        return False
    pairs = [(ours[task][name], theirs[task][name]) for task in ours for name in ours[task]]
    return all(close(each, more) for each, more in pairs)


def close(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    return one.keys() == other.keys() and all(
        math.isclose(value, other[document], rel_tol=0.0, abs_tol=ALIKE) for document, value in one.items()
    )


def same_merge(one: Recipe, other: Recipe, checkpoints: Mapping[str, Checkpoint]) -> bool:
    """Whether two recipes plan the same jobs, tensor by tensor, of the same models. Vocabularies that are rebuilt are
    not looked into: such merges are told by their recipes alone."""
    if one == other:
        return True
    planned = [plan(recipe, checkpoints).jobs for recipe in (one, other)]
    if any(each.rows is not None for jobs in planned for job in jobs for each in job.members):
        return False
    return [facts(job) for job in planned[0]] == [facts(job) for job in planned[1]]


def facts(job: Job) -> tuple[Any, ...]:
    """What a job does, to be compared."""
    base = None if job.base is None else source(job.base)
    method = None if job.method is None else job.method.name
    parameters = {name: repr(value) for name, value in job.parameters.items()}
    return job.name, method, tuple(map(source, job.inputs)), base, parameters, job.dtype, job.work_dtype, job.seed


def source(each: Input) -> tuple[int, str]:
    return id(each.checkpoint), each.name
