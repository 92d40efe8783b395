"""report.md and trials.csv, made from what the ledger holds."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.config import SearchConfig
from evolve.trial import Trial
from search_spaces.space import SearchSpace

STOCK_BATCH = 16  # requests in a forward pass of lm-eval's own command


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
    dtype: str  # of the scored models
    reserved: Sequence[str]  # tasks whose few-shot examples were set aside from the scored split


def points(value: float) -> str:
    """A difference of scores in points (hundredths)."""
    return f"{100 * value:+.1f}"


def interval(gain: dict[str, float]) -> str:
    return f"{points(gain['mean'])} ({points(gain['low'])} to {points(gain['high'])})"


def headline(verdict: dict[str, Any]) -> str:
    """One sentence that claims no more than the interval bears."""
    best = next(row for row in verdict["rows"] if row["name"] == verdict["best"])
    gain = best["gain"]
    unscored = f" that could be scored (not {', '.join(verdict['failed'])})" if verdict["failed"] else ""
    against = f"{best['name']}, the strongest of the {len(verdict['rows']) - 1} models and plain merges{unscored}"
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
            f"{100 * report:.1f} on the report documents ({points(report - winner['search'])}); what a search score "
            "has above the report's is luck and fitting. Finalists are ranked on the selection documents alone."
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
    return f"The winner's row, by lm-eval itself:\n\n```\n{stock_command(facts, *shots)}\n```"


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
        *(["--apply_chat_template"] if score.apply_chat_template else []),
        *([f"--system_instruction {shlex.quote(score.system_instruction)}"] if score.system_instruction else []),
        "--log_samples --output_path checked",
    ]
    return " \\\n    ".join(words)


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
