"""`evolve report DIR --weights ... --objective ...`: all candidates of a run ranked anew, without scoring anything.

Every answer stands in the item database, so other weights or another objective are arithmetic. The run itself keeps
its own: its history was made with them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.lookup import nearest
from evolve.config.forms import Shares, known_objective
from evolve.config.search_yaml import SearchConfig
from evolve.errors import ConfigError, RunError
from evolve.preparation.belonging import storage_url
from evolve.preparation.guard import load_run
from evolve.preparation.setting import Setting
from evolve.report.figures import Figures
from evolve.report.maximised import objective_text
from evolve.search.candidates import recipe_of
from evolve.search.opening import START
from evolve.statistics.paired import standard_error
from evolve.storage.items import Item, Items, short
from evolve.storage.ledger import Ledger
from evolve.trial import Job, Trial
from evolve.workers.remembering import Digests, Keys, missing_of, score_of
from tasks.objective import Measures, Objective, Utilities, differences, mean_over_tasks, restricted

WINNER, BEST = "the winner", "the run's best"
SHOWN = 20  # candidates in the table, without --all
SAMPLED = (
    "generations met other documents (search.sample), so scores compare only roughly; gaps are on the documents that "
    "both candidates met, `-` where these are too few"
)
NORMAL = 1.959964  # standard errors to each side of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A weighted mean over tasks."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Ranked:
    """A candidate by the new objective; `gap`: its mean less that of the run's winner.

    An answer without a probability or a perplexity that overflows leaves none of them (None).
    """

    name: str
    mean: Estimate | None
    metrics: Mapping[str, float]
    gap: Estimate | None


def rerank(folder: Path, weights: str | None, objective: str | None, whole: bool = False) -> None:
    """Print the table: the best candidates, or the `whole` of them.

    Raises what a user can put right; needs the run's models and tasks where they were.
    """
    config = load_run(folder)
    ledger = Ledger(storage_url(config), config.name, must_exist=True)
    setting = Setting(with_objective(config, objective))
    asked = with_weights(setting.objective, weights)
    trials = [trial for trial in ledger.trials() if trial.failure is None]
    verdict = ledger.attribute("verdict")
    found = recorded(trials, setting, Items(config.folder / "items", owned=False))
    if not found:
        raise RunError(
            f"{folder}: no candidate's answers are recorded; "
            "the search's answers are gone from its items/ folder, or models and tasks have changed; put back what was "
            "there, or search under another name, since candidates in the ledger are not scored again"
        )
    rows = ranked(found, asked, winner_of(verdict, found), front_of(folder))
    shown = rows if whole else best_of(rows)
    missing = len({trial.digest for trial in trials}) - len(found)
    if verdict is None:
        print(f"unfinished: {len(trials)} of {config.search.trials} candidates are scored, and none has won yet")
    for line in table(shown, asked, missing):
        print(line)
    if config.search.sample is not None:
        print(SAMPLED)
    if len(shown) < len(rows):
        print(f"{len(rows) - len(shown)} more candidates are scored: --all shows them")


def winner_of(verdict: Mapping[str, Any] | None, found: Collection[str]) -> str | None:
    """The digest of the run's winner, or of the candidate that it was made simpler from, if that is among `found`."""
    if verdict is None:
        return None
    winner, *others = verdict["finalists"]
    origin = [each for each in others if each["name"] == winner.get("of")]
    return next((each["digest"] for each in (winner, *origin) if each["digest"] in found), None)


def front_of(folder: Path) -> frozenset[str]:
    """The names of the trials on the front of several objectives, as front.csv has them."""
    try:
        with (folder / "front.csv").open(encoding="utf-8", newline="") as file:
            return frozenset(row["name"] for row in csv.DictReader(file) if row.get("name"))
    except (OSError, UnicodeDecodeError, csv.Error):  # none, or none any more
        return frozenset()


def recorded(trials: Iterable[Trial], setting: Setting, items: Items) -> dict[str, tuple[Trial, Measures]]:
    """Recipe digest -> its first trial and its measures on the search documents, of all that are known whole: on all
    documents, or where generations are scored on draws of them, on a draw. Those that left a race early are not."""
    keys, found = Keys(setting), dict[str, tuple[Trial, Measures]]()
    digests, drawn = keys.digests("search"), setting.config.search.sample is not None
    for trial in trials:
        if trial.digest in found or not trial.whole:
            continue
        recipe = recipe_of(trial, setting.space)
        known = items.known(keys.candidate(Job(key=trial.digest, documents="search", recipe=recipe)))
        mine = known_of(digests, known) if drawn else digests
        if not missing_of(mine, known) and sum(map(len, mine.values())) >= max(trial.documents, 1):
            found[trial.digest] = trial, score_of(mine, known).measures
    return found


def known_of(digests: Digests, known: Mapping[str, Item]) -> Digests:
    """Of each task the documents that are known."""
    return {
        task: {identity: digest for identity, digest in each.items() if short(digest) in known}
        for task, each in digests.items()
    }


def ranked(
    found: Mapping[str, tuple[Trial, Measures]],
    objective: Objective,
    winner: str | None,
    front: Collection[str] = (),
) -> list[Ranked]:
    """The best first, those without a finite mean last. Gaps are to the run's best where no winner is known, on the
    documents that both have. Trials in `front` are marked."""
    utilities = {digest: objective.utilities(measures) for digest, (_, measures) in found.items()}
    title = WINNER
    if winner is None or winner not in found:
        title = BEST
        values = {digest: trial.value for digest, (trial, _) in found.items()}
        winner = max(values, key=lambda digest: -math.inf if (value := values[digest]) is None else value)
    rows = []
    for digest, (trial, measures) in found.items():
        gaps = in_common(measures, found[winner][1], objective)
        name = trial.origin.removeprefix(START) if trial.origin.startswith(START) else f"trial {trial.id}"
        name += " (front)" if name in front else ""
        rows.append(
            Ranked(
                f"{name}, {title}" if digest == winner else name,
                estimate(utilities[digest], objective.weights),
                objective.metrics(measures),
                None if gaps is None else estimate(gaps, objective.weights),
            )
        )
    return sorted(rows, key=lambda row: math.inf if row.mean is None else -row.mean.value)


def best_of(rows: list[Ranked]) -> list[Ranked]:
    """The first `SHOWN`, and the one that the gaps are to wherever it stands."""
    return [row for place, row in enumerate(rows) if place < SHOWN or row.name.endswith((WINNER, BEST))]


def estimate(values: Utilities, weights: Mapping[str, float]) -> Estimate | None:
    """None where there is no finite one."""
    value = mean_over_tasks(values, weights)
    error = standard_error(values, weights) if math.isfinite(value) else math.nan
    return Estimate(value, error) if math.isfinite(error) else None


def in_common(ours: Measures, theirs: Measures, objective: Objective) -> Utilities | None:
    """Differences on the documents that both have, by utilities of these alone; None where a task has fewer than two of
    them."""
    pair = [objective.utilities(each) for each in (ours, theirs)]
    common = {task: pair[0][task].keys() & pair[1][task].keys() for task in pair[0]}
    if any(len(each) < 2 for each in common.values()):
        return None
    return differences(*(objective.utilities(restricted(each, common)) for each in (ours, theirs)))


def heading(objective: Objective) -> str:
    """What the columns hold: tasks, metrics, and what was ranked by."""
    weights = {goal.weight for goal in objective.goals}
    tasks = ", ".join(
        f"{goal.task} ({goal.measure.removesuffix(',none')}{f', weight {goal.weight:g}' if len(weights) > 1 else ''})"
        for goal in objective.goals
    )
    return f"ranked by {objective_text(objective)}, the mean over {tasks}"


def table(rows: list[Ranked], objective: Objective, missing: int) -> Iterable[str]:
    yield heading(objective)
    figures = Figures(objective)
    gap: Callable[[float], str] = figures.gap if objective.is_metric else "{:+.4f}".format
    error = "± one se of the " + ("metric" if objective.is_metric else "objective")
    lines = [["candidate", "metric", *([] if objective.is_metric else ["objective"]), error]]
    won = any(row.name.endswith(WINNER) for row in rows)
    lines[0].append(f"gap to {WINNER if won else BEST}, 95 % interval")
    for row in rows:
        values = ["-"] if row.mean is None else [figures.metric(row.mean.standard_error)]
        if not objective.is_metric:
            none = ["not finite", "-"]
            values = none if row.mean is None else [f"{row.mean.value:.4f}", f"{row.mean.standard_error:.4f}"]
        lines.append([row.name, figures.mean(row.metrics), *values, "-"])
        if row.gap is not None:
            middle, margin = row.gap.value, NORMAL * row.gap.standard_error
            lines[-1][-1] = f"{gap(middle)} ({gap(middle - margin)} to {gap(middle + margin)})"
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    if missing:
        yield f"{missing} more candidates left a race early, or have no recorded answers to all search documents"
    yield (
        "on the search documents, whose best is overstated; to let these weights decide, run them under another name "
        "with a copy of the items/ folder: nothing is scored twice"
    )


def with_weights(objective: Objective, text: str | None) -> Objective:
    """The objective with the weights that `task=2,other=1` gives; tasks that are not named keep theirs."""
    given = {} if text is None else numbers(text, list(objective.weights), "--weights", "task")
    goals = tuple(replace(goal, weight=given.get(goal.task, goal.weight)) for goal in objective.goals)
    if not any(goal.weight for goal in goals):
        raise ConfigError(f"--weights {text}: all weights are 0; give at least one task a weight above 0")
    return replace(objective, goals=goals)


def with_objective(config: SearchConfig, text: str | None) -> SearchConfig:
    """The configuration with `metric`, `loglikelihood` or `metric=1,loglikelihood=0.2` as its objective."""
    if text is None:
        return config
    if "=" in text:
        shares = numbers(text, ["metric", "loglikelihood"], "--objective", "share")
        if not any(shares.values()):
            raise ConfigError(f"--objective {text}: all shares are 0; give one of them more")
        chosen: Shares | str = Shares(**shares)
    else:
        try:
            chosen = known_objective(text)
        except ValueError as error:
            raise ConfigError(f"--objective: {error}") from None
    return config.model_copy(update={"score": config.score.model_copy(update={"objective": chosen})})


def numbers(text: str, known: list[str], option: str, what: str) -> dict[str, float]:
    """`name=number,name=number` of the known names."""
    found = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in known:
            hint = nearest(name, known) or f"; one of {', '.join(known)}"
            raise ConfigError(f"{option} {text}: no {what} named {name!r}{hint}")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = math.nan
        if not (math.isfinite(found[name]) and found[name] >= 0):
            raise ConfigError(f"{option} {text}: {name} is {number!r}; give a number of 0 or more")
    return found
