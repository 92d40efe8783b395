"""The end of a run: finalists on the selection documents, then the winner against everything else on the report
documents, which nothing before has seen.

The winner is chosen on the selection documents alone: its search score is the best of many noisy ones and
overstates it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.recipe import Recipe
from evolve.baselines import WINNER, model_recipes, plain_merges
from evolve.errors import RunError
from evolve.executor import Executor
from evolve.statistics import Difference, paired_difference, standard_error
from evolve.study import recipe_of
from evolve.trial import Failure, Job, Point, Trial
from search_spaces.depth import Family
from search_spaces.space import SearchSpace
from tasks.objective import Objective, mean_over_tasks
from tasks.score import Score


@dataclass(frozen=True)
class Finalist:
    """A recipe of the last round, where it came from, and what it scored so far (the mean was never searched).

    `search` and `selection` are values of the objective; `metrics`: set -> task -> metric as lm-eval prints it.
    """

    name: str
    recipe: Recipe
    search: float | None
    selection: float = float("nan")
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One model on the report documents.

    `metrics` and their weighted `mean` are as lm-eval prints them (None where higher is better for some tasks only);
    `standard_error` is the mean's. Gains are of the winner over this one, positive where it is better: of the metric,
    of the gold answers' log-likelihood per unit, and of the objective where it is neither of them alone.
    """

    name: str
    kind: str  # winner, model, plain merge
    metrics: dict[str, float]
    loglikelihoods: dict[str, float]
    mean: float | None
    standard_error: float
    gain: Difference | None
    loglikelihood_gain: Difference | None = None
    objective_gain: Difference | None = None


@dataclass(frozen=True)
class Verdict:
    """What the report says. `rows` begin with the winner; `best` names the strongest of the others."""

    finalists: tuple[Finalist, ...]
    rows: tuple[Row, ...]
    best: str
    failed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "finalists": [
                {
                    "name": f.name,
                    "search": f.search,
                    "selection": f.selection,
                    "digest": f.recipe.digest,
                    "metrics": {name: dict(each) for name, each in f.metrics.items()},
                }
                for f in self.finalists
            ],
            "rows": [asdict(row) for row in self.rows],
            "best": self.best,
            "failed": list(self.failed),
        }


def choose_finalists(space: SearchSpace, trials: list[Trial], recommended: Point | None, count: int) -> list[Finalist]:
    """The `count` best recipes of the search, and the optimizer's own recommendation."""
    scored = sorted((t for t in trials if t.value is not None and t.whole), key=lambda t: (-float(t.value or 0), t.id))
    if not scored:
        raise RunError("the search: no candidate could be scored; see `evolve status` for the failures")
    finalists: dict[str, Finalist] = {}
    for trial in scored:
        if len(finalists) == count:
            break
        recipe = recipe_of(trial, space)
        finalist = Finalist(f"trial {trial.id}", recipe, trial.value, metrics={"search": trial.tasks})
        finalists.setdefault(recipe.digest, finalist)
    if recommended is not None:
        recipe = space.decode(recommended)
        finalists.setdefault(recipe.digest, Finalist("mean of the search", recipe, None))
    return list(finalists.values())


def select(
    finalists: list[Finalist],
    objective: Objective,
    executor: Executor,
    done: Callable[[str], None],
) -> list[Finalist]:
    """The finalists with their selection scores, the best by the objective first."""
    jobs = {f.name: Job(key=f.recipe.digest, documents="selection", recipe=f.recipe) for f in finalists}
    scores = scored(jobs, objective, executor, done)
    ranked = [
        replace(
            each,
            selection=objective.value(scores[each.name].measures),
            metrics={**each.metrics, "selection": objective.metrics(scores[each.name].measures)},
        )
        for each in finalists
        if each.name in scores
    ]
    ranked = [each for each in ranked if math.isfinite(each.selection)]
    if not ranked:
        raise RunError("the finalists: none could be scored on the selection documents; run the same command again")
    return sorted(ranked, key=lambda finalist: -finalist.selection)


def judge(
    finalists: list[Finalist],
    checkpoint: Path,
    family: Family,
    objective: Objective,
    seed: int,
    executor: Executor,
    done: Callable[[str], None],
) -> Verdict:
    """Score the written checkpoint and everything it must beat on the report documents."""
    winner = finalists[0].recipe
    models, merges = model_recipes(family), plain_merges(family)
    jobs = {WINNER: Job(key=f"checkpoint of {winner.digest}", documents="report", folder=str(checkpoint))}
    for name, recipe in (models | merges).items():
        jobs[name] = Job(key=recipe.digest, documents="report", recipe=recipe)
    scores = scored(jobs, objective, executor, done)
    if WINNER not in scores:
        raise RunError(f"{checkpoint}: the winner could not be scored on the report documents; run the command again")
    ours = scores[WINNER]
    rows = [row_of(WINNER, "winner", ours, None, objective, seed)]
    for name in (*models, *merges):
        if name in scores:
            kind = "model" if name in models else "plain merge"
            rows.append(row_of(name, kind, scores[name], ours, objective, seed))
    if len(rows) == 1:
        raise RunError("the report: no model could be scored beside the winner; run the same command again")
    strength = {row.name: objective.metric_only().value(scores[row.name].measures) for row in rows[1:]}
    best = max(strength, key=lambda name: strength[name])
    return Verdict(tuple(finalists), tuple(rows), best, tuple(name for name in jobs if name not in scores))


def scored(
    jobs: Mapping[str, Job], objective: Objective, executor: Executor, done: Callable[[str], None]
) -> dict[str, Score]:
    """The scores by name. Names with the same job share one; one that fails, or is not finite, is said and left out."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, job in jobs.items():
        names.setdefault((job.key, job.documents), []).append(name)
    scores = {}
    for job, evaluation in executor.run([jobs[twins[0]] for twins in names.values()]):
        for name in names[job.key, job.documents]:
            outcome = evaluation.outcome
            if isinstance(outcome, Failure):
                done(f"{name} failed ({outcome.kind}): {outcome.message}")
            elif not math.isfinite(objective.metric_only().value(outcome.measures)):
                done(f"{name} failed (not finite): its metric is not a finite number")
            else:
                scores[name] = outcome
                done(name)
    return {name: scores[name] for name in jobs if name in scores}


def row_of(name: str, kind: str, score: Score, ours: Score | None, objective: Objective, seed: int) -> Row:
    def gain(by: Objective) -> Difference | None:
        if ours is None:
            return None
        pair = by.utilities(ours.measures), by.utilities(score.measures)
        if not all(math.isfinite(mean_over_tasks(each, objective.weights)) for each in pair):
            return None  # an answer without any probability
        return paired_difference(*pair, objective.weights, seed)

    metrics, answers = objective.metrics(score.measures), objective.loglikelihoods(score.measures)
    metric = objective.metric_only()
    return Row(
        name=name,
        kind=kind,
        metrics=metrics,
        loglikelihoods=answers,
        mean=objective.mean_metric(metrics),
        standard_error=standard_error(metric.utilities(score.measures), objective.weights),
        gain=gain(metric),
        loglikelihood_gain=gain(objective.loglikelihood_only()) if len(answers) == len(metrics) else None,
        objective_gain=gain(objective) if objective.metric and objective.loglikelihood else None,
    )
