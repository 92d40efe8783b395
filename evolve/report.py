"""report.md and trials.csv, made from what the ledger holds."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.config import SearchConfig
from evolve.figures import Figures, fine
from evolve.maximised import scoring_lines
from evolve.trial import Trial
from search_spaces.space import SearchSpace

DATA_FILES = "lm-eval looks for the relative `data_files` of a task only from the folder that it is started in."
STOCK_BATCH = 16  # requests in a forward pass of lm-eval's own command


@dataclass(frozen=True)
class Facts:
    """Everything the report is made from; `verdict` is `Verdict.as_dict()`."""

    config: SearchConfig
    figures: Figures
    trials: Sequence[Trial]
    verdict: dict[str, Any]
    recipe: str
    openings: Sequence[dict[str, Any]]
    documents: dict[str, dict[str, int]]  # task -> set -> number of documents
    benchmarks: Sequence[str]
    dtype: str  # of the scored models
    reserved: Sequence[str]  # tasks whose few-shot examples were set aside from the scored split
    opening: str = ""  # the candidate of every search's beginning that the winner is, in words


def headline(verdict: dict[str, Any], figures: Figures) -> str:
    """What the metric's interval bears, whatever was maximised: log-likelihoods are a means, the metric is the end."""
    best = next(row for row in verdict["rows"] if row["name"] == verdict["best"])
    gain = best["gain"]
    unscored = f" that could be scored (not {', '.join(verdict['failed'])})" if verdict["failed"] else ""
    against = f"{best['name']}, the strongest of the {len(verdict['rows']) - 1} models and plain merges{unscored}"
    shown = figures.interval(gain) + figures.unit
    if gain["low"] > 0:
        return f"The merge is better than {against}: {shown}."
    likelier = likelihood_text(best, figures)
    if gain["high"] < 0:
        return f"The merge is worse than {against}: {shown}. Use {best['name']} instead.{likelier}"
    return f"No difference from {against} could be shown: {shown}.{likelier}"


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
        "## The finalists",
        finalist_text(facts),
        "## The recipe",
        f"```yaml\n{facts.recipe.strip()}\n```",
        "## The search",
        search_text(facts),
        "## Check it yourself",
        check_text(facts),
    ]
    return "\n\n".join(sections) + "\n"


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


def finalist_text(facts: Facts) -> str:
    figures, finalists = facts.figures, facts.verdict["finalists"]
    mixed = not figures.objective.is_metric
    head = ["finalist", "search documents", "selection documents"]
    head += ["objective (search)", "objective (selection)"] if mixed else []
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for finalist in finalists:
        cells = [finalist["name"], *(shown(finalist, name, figures) for name in ("search", "selection"))]
        values = [finalist["search"], finalist["selection"]] if mixed else []
        cells += ["" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {' | '.join(cells)} |")
    winner, row = finalists[0], facts.verdict["rows"][0]
    before, after = shown(winner, "search", figures), figures.mean(row["metrics"])
    if before:
        by = " by the objective" if mixed else ""
        lines.append(
            f"\nThe winner, {winner['name']}, scored {before} on the search documents and {after} on the report "
            f"documents{loss(winner, row, figures)}; where the first is better, the difference is luck and "
            f"fitting. Finalists are ranked on the selection documents alone{by}."
        )
    if facts.opening:
        lines.append(
            f"\nThe winner is a candidate that the search began with: {facts.opening}. Nothing that the search found "
            "afterwards was better on the selection documents."
        )
    return "\n".join(lines)


def loss(winner: dict[str, Any], row: dict[str, Any], figures: Figures) -> str:
    """What the winner's mean lost between the search and the report documents, where there is a mean."""
    metrics = winner.get("metrics", {}).get("search")
    before = figures.objective.mean_metric(metrics) if metrics else winner["search"]
    return "" if before is None or row["mean"] is None else f" ({figures.gap(row['mean'] - before)})"


def shown(finalist: dict[str, Any], documents: str, figures: Figures) -> str:
    """A finalist's metric on one set, or nothing where it was not scored."""
    metrics = finalist.get("metrics", {}).get(documents)
    if metrics:
        return figures.mean(metrics)
    value = finalist[documents]  # of a ledger that holds no metrics of finalists
    return "" if value is None or not figures.objective.is_metric else figures.metric(value)


def search_text(facts: Facts) -> str:
    config, trials = facts.config, facts.trials
    failed = [trial for trial in trials if trial.failure]
    kinds = {trial.failure.kind for trial in failed if trial.failure}
    failures = f"{len(failed)} failed ({', '.join(sorted(kinds))})" if failed else "none failed"
    lines = [
        f"- {len(trials)} candidates, {failures}; {sum(trial.documents for trial in trials)} documents scored",
        f"- optimizer {config.search.optimizer}, methods {', '.join(config.space.method)}, seed {config.seed}",
        f"- base {config.models.base}; sources {', '.join(config.models.sources)}",
        *(f"- {line}" for line in scoring_lines(config.score, facts.figures.objective, facts.dtype)),
    ]
    for task, sets in facts.documents.items():
        sizes = ", ".join(f"{size} {name}" for name, size in sets.items())
        lines.append(f"- {task}: {sizes} documents, disjoint")
    return "\n".join(lines)


def check_text(facts: Facts) -> str:
    """The stock lm-eval command that gives the winner's row again, or why there is none."""
    score = facts.config.score
    if facts.reserved:
        return (
            f"lm-eval's own command draws few-shot examples of {', '.join(facts.reserved)} from all documents; here "
            "they come from documents that were set aside, so its numbers differ a little."
        )
    shots = {task.num_fewshot for task in score.tasks}
    if len(shots) > 1 or len(score.include) > 1:
        return (
            "lm-eval's own command takes one folder of tasks and one number of few-shot examples for all of them; "
            "run it task by task with the documents in `documents/report.json`."
        )
    local = f"\n\n{DATA_FILES}" if score.include else ""
    return f"The winner's row, by lm-eval itself:\n\n```\n{stock_command(facts, *shots)}\n```{local}"


def stock_command(facts: Facts, num_fewshot: int | None) -> str:
    config, score = facts.config, facts.config.score
    model = [f"pretrained={config.folder}/checkpoint", f"dtype={facts.dtype}", "softmax_dtype=float32"]
    if score.max_length:
        model.append(f"max_length={score.max_length}")
    if config.run.trust_remote_code:
        model.append("trust_remote_code=True")
    words = [
        "lm_eval --model hf",
        f"--model_args {shlex.quote(','.join(model))}",
        f"--tasks {','.join(task.task for task in score.tasks)}",
        *(f"--include_path {shlex.quote(path)}" for path in score.include),
        f"--samples {shlex.quote(f'{config.folder}/documents/report.json')}",
        f"--batch_size {STOCK_BATCH}",
        *([] if num_fewshot is None else [f"--num_fewshot {num_fewshot}"]),
        *([f"--gen_kwargs {shlex.quote(json.dumps(score.gen_kwargs))}"] if score.gen_kwargs else []),
        *(["--apply_chat_template"] if score.apply_chat_template else []),
        *([f"--system_instruction {shlex.quote(score.system_instruction)}"] if score.system_instruction else []),
        "--log_samples --output_path checked",
    ]
    return " \\\n    ".join(words)


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
