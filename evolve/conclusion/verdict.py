"""The winner against everything else on the report documents, which nothing before has seen.

The winner was chosen on the selection documents alone: its search score is the best of many noisy ones and
overstates it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.recipe import Recipe
from evolve.conclusion.finalists import Finalist
from evolve.conclusion.selection import Selection, scored
from evolve.errors import RunError
from evolve.search.baselines import BASE, WINNER, model_recipes, plain_merges
from evolve.statistics.floors import FloorCheck, check
from evolve.statistics.paired import Difference, paired_difference, standard_error
from evolve.statistics.twins import alike
from evolve.trial import Job
from evolve.workers.executor import Executor
from search_spaces.depth import Family
from tasks.objective import Objective, Utilities, mean_over_tasks
from tasks.score import Score

NOTHING: Mapping[str, Any] = {}


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
class TaskGain:
    """The winner's gain on one task, positive where it is better, and on how many documents it did better and worse."""

    task: str
    gain: Difference
    wins: int
    losses: int
    documents: int


@dataclass(frozen=True)
class Verdict:
    """What the report says. `rows` begin with the winner; `best` names the strongest of the others.

    `same`: rows that are the winner under other names, where it is a baseline: there is nothing to compare.
    `dropped`: finalists that stopped early; `tasks`: by row, the winner's gains over the base and over the best, task
    by task; `floors`: what the report documents say of them; `report_value`: the winner's, of the objective.
    """

    finalists: tuple[Finalist, ...]
    rows: tuple[Row, ...]
    best: str
    failed: tuple[str, ...]
    dropped: tuple[Finalist, ...] = ()
    tasks: Mapping[str, tuple[TaskGain, ...]] = field(default_factory=dict)
    floors: tuple[FloorCheck, ...] = ()
    report_value: float = float("nan")
    report_error: float = 0.0
    same: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "finalists": [finalist_data(each) for each in self.finalists],
            "dropped": [finalist_data(each) for each in self.dropped],
            "rows": [asdict(row) for row in self.rows],
            "best": self.best,
            "failed": list(self.failed),
            "tasks": {name: [asdict(each) for each in gains] for name, gains in self.tasks.items()},
            "floors": [asdict(each) for each in self.floors],
            "report_value": self.report_value,
            "report_error": self.report_error,
            "same": list(self.same),
        }


def finalist_data(finalist: Finalist) -> dict[str, Any]:
    return {
        "name": finalist.name,
        "kind": finalist.kind,
        "of": finalist.of,
        "search": finalist.search,
        "error": finalist.error,
        "selection": finalist.selection,
        "documents": finalist.documents,
        "violation": finalist.violation,
        "digest": finalist.recipe.digest,
        "metrics": {name: dict(each) for name, each in finalist.metrics.items()},
    }


def judge(
    selection: Selection,
    checkpoint: Path,
    family: Family,
    objective: Objective,
    seed: int,
    executor: Executor,
    done: Callable[[str], None],
    *,
    baselines: Mapping[str, Recipe] = NOTHING,
    floors: Mapping[str, float] = NOTHING,
    ranked_by: Objective | None = None,
    same: Callable[[Recipe, Recipe], bool] = operator.eq,
) -> Verdict:
    """Score the written checkpoint and everything it must beat on the report documents.

    `baselines`: merges of the search's opening, beside the base, the sources and the plain merges; `ranked_by`: the
    objective that the winner was chosen by, where its weights are not those of the report's mean; `same`: whether two
    recipes are one merge.
    """
    winner = selection.ranked[0].recipe
    models, merges = model_recipes(family), others(family, baselines)
    jobs = {WINNER: Job(key=f"checkpoint of {winner.digest}", documents="report", folder=str(checkpoint))}
    for name, recipe in (models | merges).items():
        jobs[name] = Job(key=recipe.digest, documents="report", recipe=recipe)
    scores = scored(jobs, objective, executor, done)
    if WINNER not in scores:
        raise RunError(f"{checkpoint}: the winner could not be scored on the report documents; run the command again")
    ours, deciding = scores[WINNER], ranked_by or objective
    rows = [row_of(WINNER, "winner", ours, None, objective, deciding, seed)]
    for name in (*models, *merges):
        if name in scores:
            kind = "model" if name in models else "plain merge"
            rows.append(row_of(name, kind, scores[name], ours, objective, deciding, seed))
    if len(rows) == 1:
        raise RunError("the report: no model could be scored beside the winner; run the same command again")
    own: tuple[str, ...] = ()
    if selection.ranked[0].kind == "start":
        twins = [name for name, recipe in (models | merges).items() if same(recipe, winner)]
        own = tuple(row.name for row in rows[1:] if row.name in twins or alike(scores[row.name], ours))
    best = strongest(scores, rows, own, objective)
    gains = {
        name: task_gains(ours, scores[name], objective, seed) for name in dict.fromkeys((best, BASE)) if name in scores
    }
    utilities = deciding.utilities(ours.measures)
    return Verdict(
        selection.ranked,
        tuple(rows),
        best,
        tuple(name for name in jobs if name not in scores),
        selection.dropped,
        gains,
        tuple(check(each.task, floors[each.task], each.gain) for each in gains.get(BASE, ()) if each.task in floors),
        deciding.value(ours.measures),
        standard_error(utilities, deciding.weights) if finite(utilities, deciding) else math.nan,
        own if best not in own else (),
    )


def strongest(scores: Mapping[str, Score], rows: Sequence[Row], own: Sequence[str], objective: Objective) -> str:
    """The best of the others by the metric; of those the winner itself, under its `own` names, only where there is no
    other one: a baseline that won is not compared with itself."""
    strength = {row.name: objective.metric_only().value(scores[row.name].measures) for row in rows[1:]}
    rivals = [name for name in strength if name not in own] or list(strength)
    return max(rivals, key=lambda name: strength[name])


def others(family: Family, baselines: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The plain merges, and those of the opening that are none of the recipes above under another name."""
    known = model_recipes(family) | plain_merges(family)
    digests = {recipe.digest for recipe in known.values()}
    found = {name: recipe for name, recipe in baselines.items() if recipe.digest not in digests and name not in known}
    return plain_merges(family) | found


def task_gains(ours: Score, theirs: Score, objective: Objective, seed: int) -> tuple[TaskGain, ...]:
    """Of the metric, turned so that higher is better; tasks without finite values are left out."""
    pair = [objective.metric_only().utilities(score.measures) for score in (ours, theirs)]
    return tuple(
        task_gain(task, pair[0][task], pair[1][task], seed)
        for task in pair[0]
        if all(math.isfinite(mean_over_tasks({task: each[task]}, {task: 1.0})) for each in pair)
    )


def task_gain(task: str, ours: Mapping[int, float], theirs: Mapping[int, float], seed: int) -> TaskGain:
    gaps = [ours[document] - theirs[document] for document in ours]
    return TaskGain(
        task,
        paired_difference({task: ours}, {task: theirs}, {task: 1.0}, seed),
        wins=sum(gap > 0 for gap in gaps),
        losses=sum(gap < 0 for gap in gaps),
        documents=len(gaps),
    )


def row_of(
    name: str, kind: str, score: Score, ours: Score | None, objective: Objective, deciding: Objective, seed: int
) -> Row:
    def gain(by: Objective) -> Difference | None:
        if ours is None:
            return None
        pair = by.utilities(ours.measures), by.utilities(score.measures)
        if not all(finite(each, by) for each in pair):
            return None  # an answer without any probability
        return paired_difference(*pair, by.weights, seed)

    metrics, answers = objective.metrics(score.measures), objective.loglikelihoods(score.measures)
    metric = objective.metric_only()
    mixed = (objective.metric and objective.loglikelihood) or deciding != objective
    return Row(
        name=name,
        kind=kind,
        metrics=metrics,
        loglikelihoods=answers,
        mean=objective.mean_metric(metrics),
        standard_error=standard_error(metric.utilities(score.measures), objective.weights),
        gain=gain(metric),
        loglikelihood_gain=gain(objective.loglikelihood_only()) if len(answers) == len(metrics) else None,
        objective_gain=gain(deciding) if mixed else None,
    )


def finite(utilities: Utilities, objective: Objective) -> bool:
    return math.isfinite(mean_over_tasks(utilities, objective.weights))
