"""report.md and trials.csv, made from what the ledger holds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolve.report.end import finalist_text, floor_text, simplification_text, task_text
from evolve.report.facts import Facts
from evolve.report.figures import Figures, fine
from evolve.report.search import front_text, gene_text, search_text
from evolve.report.stock_command import check_text
from evolve.search.baselines import BASE
from evolve.trial import Trial
from search_spaces.space import SearchSpace


def headline(verdict: dict[str, Any], figures: Figures) -> str:
    """What the metric's interval bears, whatever was maximised: log-likelihoods are a means, the metric is the end.

    A gain is claimed where the intervals over every model and plain merge lie above zero.
    """
    own = [verdict["finalists"][0]["name"], *verdict.get("same", ())] if begun_with(verdict) else []
    others = [row for row in verdict["rows"][1:] if row["name"] == verdict["best"] or row["name"] not in own]
    best = next(row for row in others if row["name"] == verdict["best"])
    gain = best["gain"]
    unscored = f" that could be scored (not {', '.join(verdict['failed'])})" if verdict["failed"] else ""
    against = f"{best['name']}, the strongest of the {len(others)} models and plain merges{unscored}"
    shown, begun = figures.interval(gain) + figures.unit, beginning(verdict)
    unbeaten = [row["name"] for row in others if row["gain"]["low"] <= 0 and row is not best]
    it = "It" if begun else "The merge"
    if gain["low"] > 0 and not unbeaten:
        return f"{begun}{it} is better than {against}: {shown}."
    if gain["low"] > 0:
        return f"{begun}{it} is better than {against}: {shown}. Not shown to be better than {listed(unbeaten)}."
    likelier = likelihood_text(best, figures)
    if gain["high"] < 0:
        return f"{begun}{it} is worse than {against}: {shown}. Use {best['name']} instead.{likelier}"
    nor = f" Nor is it shown to be better than {listed(unbeaten)}." if unbeaten else ""
    return f"{begun}No difference from {against} could be shown: {shown}.{nor}{likelier}"


def beginning(verdict: dict[str, Any]) -> str:
    """A sentence where what won is nothing that the search found."""
    winner, *others = verdict["finalists"]
    if not begun_with(verdict):
        return ""
    found = [each for each in (*others, *verdict.get("dropped", ())) if each.get("kind") != "start"]
    if any(each.get("violation") for each in found) and not any(not each.get("violation") for each in found):
        if winner["name"] == BASE:
            return "Nothing found keeps the floors; the base is left as it is. "
        return f"Nothing found keeps the floors; the winner is {winner['name']}, which every search begins with. "
    name = winner["name"]
    return f"Nothing found was better on the selection documents than {name}, which the search began with. "


def begun_with(verdict: dict[str, Any]) -> bool:
    """Whether what won is a model or a plain merge of the search's opening."""
    return bool(verdict["finalists"][0].get("kind") == "start")


def listed(names: Sequence[str]) -> str:
    """`a, b or c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def likelihood_text(best: dict[str, Any], figures: Figures) -> str:
    """A sentence where the search was after likelier answers and found them, but no better metric."""
    gain = best.get("loglikelihood_gain")
    if figures.objective.is_metric or not gain or gain["low"] <= 0:
        return ""
    return f" Its right answers are likelier, {fine(gain)} {figures.nats}, but the metric does not show it."


def report_text(facts: Facts) -> str:
    """The whole report as Markdown."""
    verdict, config = facts.verdict, facts.config
    sections = [
        f"# {config.name}",
        headline(verdict, facts.figures),
        "Measured on the report documents, which the search never saw; 95 % intervals from a paired bootstrap "
        f"over documents. Metrics are lm-eval's{'' if facts.figures.plain else ', in hundredths'}; a gain is positive "
        "where the winner is better, also where a metric should fall.",
        *warnings(facts),
        "## On the report documents",
        model_table(verdict, facts.figures),
        *titled_text("## Task by task", task_text(verdict, facts.figures)),
        *titled_text("## Floors", floor_text(verdict, facts.figures)),
        "## The finalists",
        finalist_text(verdict, facts.figures, facts.opening),
        "## The recipe",
        f"```yaml\n{facts.recipe.strip()}\n```",
        *simplification_text(verdict, facts.figures),
        *titled_text("## Which genes mattered", gene_text(verdict)),
        *titled_text("## The front", front_text(verdict)),
        "## The search",
        search_text(facts),
        "## Check it yourself",
        check_text(config, facts.dtype, facts.reserved),
    ]
    return without_tags("\n\n".join(sections)) + "\n"


def without_tags(text: str) -> str:
    """Markdown in which what stands outside of code is text: models and tasks may be called `<script>`."""
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)
    return "".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


def titled_text(title: str, text: str) -> list[str]:
    """Nothing where there is no text."""
    return [title, text] if text else []


def warnings(facts: Facts) -> list[str]:
    notes = []
    if len(facts.openings) > 1:
        after = ", ".join(str(event["trials"]) for event in facts.openings[:-1])
        notes.append(
            f"> The report documents had been opened before, after {after} trials. Whoever then decided to search on "
            "had seen these results: take the gain as slightly too good."
        )
    if facts.benchmarks:
        notes.append(
            f"> Searched on what looks like a public benchmark ({', '.join(facts.benchmarks)}), as "
            "`allow_benchmarks: true` permits. The result says nothing about that benchmark's standing."
        )
    if facts.verdict["failed"]:
        notes.append(f"> Could not be scored and is missing below: {', '.join(facts.verdict['failed'])}.")
    return notes


def model_table(verdict: dict[str, Any], figures: Figures) -> str:
    goals, rows = figures.objective.goals, verdict["rows"]
    tasks = [goal.task for goal in goals]
    means = rows[0]["mean"] is not None
    head = ["model", *tasks, *(["mean"] if means else []), "winner's gain (95 % interval)"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        mean = f"{figures.metric(row['mean'])} ± {figures.metric(row['standard_error'])}" if means else ""
        cells = [*(figures.metric(row["metrics"][task]) for task in tasks), *([mean] if means else [])]
        lines.append(f"| {' | '.join([titled(row), *cells, figures.interval(row['gain']) if row['gain'] else ''])} |")
    falling = [goal.task for goal in goals if not goal.higher_is_better]
    note = f" Lower is better: {', '.join(falling)}." if falling else ""
    error = " ± is one standard error of the mean over tasks." if means else ""
    metrics = ", ".join(f"{goal.task}: {goal.measure.removesuffix(',none')}" for goal in goals)
    lines.append(f"\nMetrics: {metrics}.{error}{note}")
    return "\n".join([*lines, *likelihood_table(rows, tasks, figures)])


def likelihood_table(rows: Sequence[dict[str, Any]], tasks: Sequence[str], figures: Figures) -> list[str]:
    """The right answers' log-likelihoods, where any task has them, and the objective's gain where it is a mix."""
    answered = [task for task in tasks if all(task in row.get("loglikelihoods", {}) for row in rows)]
    if not answered:
        return []
    mixed = any(row.get("objective_gain") for row in rows)
    whole = any(row.get("loglikelihood_gain") for row in rows)
    head = ["model", *answered, *(["winner's gain (95 % interval)"] if whole else [])]
    head += ["gain of the objective"] if mixed else []
    lines = [f"\nLog-likelihood of the right answers, {figures.nats}:\n"]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        gains = [row.get("loglikelihood_gain")] * whole + [row.get("objective_gain")] * mixed
        cells = [f"{row['loglikelihoods'][task]:.4f}" for task in answered]
        lines.append(f"| {' | '.join([titled(row), *cells, *(fine(gain) if gain else '' for gain in gains)])} |")
    return lines


def titled(row: dict[str, Any]) -> str:
    return f"**{row['name']}**" if row["kind"] == "winner" else str(row["name"])


def trials_csv(space: SearchSpace, trials: Sequence[Trial]) -> str:
    """A line a trial: identity, objective, error, failure, seconds, metrics and log-likelihoods by task, genes."""
    tasks = list(dict.fromkeys(task for trial in trials for task in trial.tasks))
    answered = list(dict.fromkeys(task for trial in trials for task in trial.loglikelihoods))
    genes = [gene.name for gene in space.genes]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [
        "id",
        "generation",
        "origin",
        "value",
        "whole",
        "standard_error",
        "documents",
        "failure",
        "seconds",
        "digest",
    ]
    writer.writerow([*head, *tasks, *(f"loglikelihood {task}" for task in answered), *genes])
    for trial in trials:
        values = space.named(trial.point) if trial.point else {}
        writer.writerow(
            [
                trial.id,
                trial.generation,
                trial.origin,
                "" if trial.value is None else trial.value,
                str(trial.whole).lower(),
                trial.standard_error,
                trial.documents,
                f"{trial.failure.kind}: {trial.failure.message}" if trial.failure else "",
                round(trial.seconds.get("total", 0.0), 3),
                trial.digest[:16],
                *(trial.tasks.get(task, "") for task in tasks),
                *(trial.loglikelihoods.get(task, "") for task in answered),
                *(values.get(gene, "") for gene in genes),
            ]
        )
    return out.getvalue()


def where(folder: Path) -> str:
    """The last lines of a run: where everything lies."""
    return "\n".join(
        [
            f"recipe      {folder / 'best.yaml'}",
            f"checkpoint  {folder / 'checkpoint'}",
            f"report      {folder / 'report.md'}",
        ]
    )
