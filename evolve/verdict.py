"""The end of a run: finalists on the selection documents, then the winner against everything else on the report
documents, which nothing before has seen.

The winner is chosen on the selection documents alone: its search score is the best of many noisy ones and
overstates it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.recipe import Recipe
from evolve.baselines import WINNER, model_recipes, plain_merges
from evolve.errors import RunError
from evolve.executor import Executor
from evolve.score_store import ScoreStore
from evolve.statistics import Difference, oriented, paired_difference, standard_error, weighted_mean
from evolve.trial import Job, Point, Trial
from search_spaces.depth import Family
from search_spaces.space import SearchSpace
from tasks.score import Score


@dataclass(frozen=True)
class Finalist:
    """A recipe of the last round, where it came from, and what it scored so far (the mean was never searched)."""

    name: str
    recipe: Recipe
    search: float | None
    selection: float = float("nan")


@dataclass(frozen=True)
class Row:
    """One model on the report documents. `gain` is the winner's mean minus this one's."""

    name: str
    kind: str  # winner, model, plain merge
    metrics: dict[str, float]
    mean: float
    standard_error: float
    gain: Difference | None


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
                {"name": f.name, "search": f.search, "selection": f.selection, "digest": f.recipe.digest}
                for f in self.finalists
            ],
            "rows": [asdict(row) for row in self.rows],
            "best": self.best,
            "failed": list(self.failed),
        }


def choose_finalists(space: SearchSpace, trials: list[Trial], recommended: Point | None, count: int) -> list[Finalist]:
    """The `count` best recipes of the search, and the optimizer's own recommendation."""
    scored = sorted((t for t in trials if t.value is not None), key=lambda t: (-float(t.value or 0), t.id))
    if not scored:
        raise RunError("the search: no candidate could be scored; see `evolve status` for the failures")
    finalists: dict[str, Finalist] = {}
    for trial in scored:
        if len(finalists) == count:
            break
        recipe = space.decode(trial.point)
        finalists.setdefault(recipe.digest, Finalist(f"trial {trial.id}", recipe, trial.value))
    if recommended is not None:
        recipe = space.decode(recommended)
        finalists.setdefault(recipe.digest, Finalist("mean of the search", recipe, None))
    return list(finalists.values())


def select(
    finalists: list[Finalist], store: ScoreStore, executor: Executor, done: Callable[[str], None]
) -> list[Finalist]:
    """The finalists with their selection scores, the winner first."""
    jobs = {f.name: Job(key=f.recipe.digest, documents="selection", recipe=f.recipe) for f in finalists}
    scores = store.scores(jobs, executor, done)
    ranked = [Finalist(f.name, f.recipe, f.search, scores[f.name].objective) for f in finalists if f.name in scores]
    if not ranked:
        raise RunError("the finalists: none could be scored on the selection documents; run the same command again")
    return sorted(ranked, key=lambda finalist: -finalist.selection)


def judge(
    finalists: list[Finalist],
    checkpoint: Path,
    family: Family,
    weights: Mapping[str, float],
    seed: int,
    store: ScoreStore,
    executor: Executor,
    done: Callable[[str], None],
) -> Verdict:
    """Score the written checkpoint and everything it must beat on the report documents."""
    winner = finalists[0].recipe
    models, merges = model_recipes(family), plain_merges(family)
    jobs = {WINNER: Job(key=f"checkpoint of {winner.digest}", documents="report", folder=str(checkpoint))}
    for name, recipe in (models | merges).items():
        jobs[name] = Job(key=recipe.digest, documents="report", recipe=recipe)
    scores = store.scores(jobs, executor, done)
    if WINNER not in scores:
        raise RunError(f"{checkpoint}: the winner could not be scored on the report documents; run the command again")
    ours = scores[WINNER]
    rows = [row_of(WINNER, "winner", ours, None, weights, seed)]
    for name in (*models, *merges):
        if name in scores:
            kind = "model" if name in models else "plain merge"
            rows.append(row_of(name, kind, scores[name], ours, weights, seed))
    if len(rows) == 1:
        raise RunError("the report: no model could be scored beside the winner; run the same command again")
    best = max(rows[1:], key=lambda row: row.mean).name
    return Verdict(tuple(finalists), tuple(rows), best, tuple(name for name in jobs if name not in scores))


def row_of(name: str, kind: str, score: Score, ours: Score | None, weights: Mapping[str, float], seed: int) -> Row:
    values = oriented(score.values, score.higher_is_better)
    gain = None
    if ours is not None:
        gain = paired_difference(oriented(ours.values, ours.higher_is_better), values, weights, seed)
    return Row(
        name,
        kind,
        dict(score.metrics),
        weighted_mean(values, weights),
        standard_error(values, weights),
        gain,
    )
