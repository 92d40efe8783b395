"""report.md and trials.csv, made from what the ledger holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.config import SearchConfig
from evolve.trial import Trial
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Facts:
    """Everything the report is made from; `verdict` is `Verdict.as_dict()`."""

    config: SearchConfig
    trials: Sequence[Trial]
    verdict: dict[str, Any]
    recipe: str
    openings: Sequence[dict[str, Any]]
    documents: dict[str, dict[str, int]]  # task -> set -> number of documents
    benchmarks: Sequence[str]


def points(value: float) -> str:
    """A difference of scores in points (hundredths)."""
    return f"{100 * value:+.1f}"


def interval(gain: dict[str, float]) -> str:
    return f"{points(gain['mean'])} ({points(gain['low'])} to {points(gain['high'])})"


def headline(verdict: dict[str, Any]) -> str:
    """One sentence that claims no more than the interval bears."""
    best = next(row for row in verdict["rows"] if row["name"] == verdict["best"])
    gain = best["gain"]
    against = f"{best['name']}, the strongest of the {len(verdict['rows']) - 1} models and plain merges"
    if gain["low"] > 0:
        return f"The merge is better than {against}: {interval(gain)} points."
    if gain["high"] < 0:
        return f"The merge is worse than {against}: {interval(gain)} points. Use {best['name']} instead."
    return f"No difference from {against} could be shown: {interval(gain)} points."


def report_text(facts: Facts) -> str:
    """The whole report as Markdown."""
    verdict, config = facts.verdict, facts.config
    sections = [
        f"# {config.name}",
        headline(verdict),
        "Measured on the report documents, which the search never saw; 95 % intervals from a paired bootstrap "
        "over documents. Scores are in hundredths.",
        *warnings(facts),
        "## On the report documents",
        model_table(verdict, config),
        "## The finalists",
        finalist_text(facts),
        "## The recipe",
        f"```yaml\n{facts.recipe.strip()}\n```",
        "## The search",
        search_text(facts),
        "## Check it yourself",
        check_text(config),
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


def model_table(verdict: dict[str, Any], config: SearchConfig) -> str:
    tasks = [task.task for task in config.score.tasks]
    head = ["model", *tasks, "mean", "winner's gain (95 % interval)"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in verdict["rows"]:
        name = f"**{row['name']}**" if row["kind"] == "winner" else row["name"]
        scores = [f"{100 * row['metrics'][task]:.1f}" for task in tasks]
        mean = f"{100 * row['mean']:.1f} ± {100 * row['standard_error']:.1f}"
        gain = interval(row["gain"]) if row["gain"] else ""
        lines.append(f"| {' | '.join([name, *scores, mean, gain])} |")
    metrics = ", ".join(f"{task.task}: {task.metric}" for task in config.score.tasks)
    lines.append(f"\nMetrics: {metrics}. ± is one standard error of the mean over tasks.")
    return "\n".join(lines)


def finalist_text(facts: Facts) -> str:
    lines = ["| finalist | search documents | selection documents |", "|---|---|---|"]
    for finalist in facts.verdict["finalists"]:
        search = "" if finalist["search"] is None else f"{100 * finalist['search']:.1f}"
        lines.append(f"| {finalist['name']} | {search} | {100 * finalist['selection']:.1f} |")
    winner, report = facts.verdict["finalists"][0], facts.verdict["rows"][0]["mean"]
    if winner["search"] is not None:
        lines.append(
            f"\nThe winner, {winner['name']}, scored {100 * winner['search']:.1f} on the search documents and "
            f"{100 * report:.1f} on the report documents: {points(winner['search'] - report)} of that was luck or "
            "fitting. Finalists are ranked on the selection documents alone."
        )
    return "\n".join(lines)


def search_text(facts: Facts) -> str:
    config, trials = facts.config, facts.trials
    failed = [trial for trial in trials if trial.failure]
    kinds = {trial.failure.kind for trial in failed if trial.failure}
    failures = f"{len(failed)} failed ({', '.join(sorted(kinds))})" if failed else "none failed"
    lines = [
        f"- {len(trials)} candidates, {failures}; {sum(trial.documents for trial in trials)} documents scored",
        f"- optimizer {config.search.optimizer}, methods {', '.join(config.space.method)}, seed {config.seed}",
        f"- base {config.models.base}; sources {', '.join(config.models.sources)}",
    ]
    for task, sets in facts.documents.items():
        sizes = ", ".join(f"{size} {name}" for name, size in sets.items())
        lines.append(f"- {task}: {sizes} documents, disjoint")
    return "\n".join(lines)


def check_text(config: SearchConfig) -> str:
    """The stock lm-eval command that gives the winner's row again."""
    folder = config.folder
    options = [f"pretrained={folder}/checkpoint", f"dtype={config.score.dtype or 'auto'}"]
    if config.score.max_length:
        options.append(f"max_length={config.score.max_length}")
    words = [
        "lm_eval --model hf",
        f"--model_args {','.join(options)}",
        f"--tasks {','.join(task.task for task in config.score.tasks)}",
        *(f"--include_path {path}" for path in config.score.include[:1]),
        f"--samples {folder}/documents/report.json",
        f"--batch_size {config.score.batch_size}",
        *(["--apply_chat_template"] if config.score.apply_chat_template else []),
        "--device cpu --log_samples --output_path checked",
    ]
    command = " \\\n    ".join(words)
    return f"The winner's row, by lm-eval itself:\n\n```\n{command}\n```"


def trials_csv(space: SearchSpace, trials: Sequence[Trial]) -> str:
    """A line a trial: identity, score, error, tasks, failure, seconds, then every gene."""
    tasks = list(dict.fromkeys(task for trial in trials for task in trial.tasks))
    genes = [gene.name for gene in space.genes]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["id", "generation", "value", "standard_error", "documents", "failure", "seconds", "digest"]
    writer.writerow([*head, *tasks, *genes])
    for trial in trials:
        values = space.named(trial.point)
        writer.writerow(
            [
                trial.id,
                trial.generation,
                "" if trial.value is None else trial.value,
                trial.standard_error,
                trial.documents,
                f"{trial.failure.kind}: {trial.failure.message}" if trial.failure else "",
                round(trial.seconds.get("total", 0.0), 3),
                trial.digest[:16],
                *(trial.tasks.get(task, "") for task in tasks),
                *(values[gene] for gene in genes),
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
