"""What climbing by gradients finds, and which of two things is better climbed.

    python results/search/gradients.py            # from the root; writes gradients.json and gradients.md beside it

On the demo family, from a weight of 1/5 for every source, with genes for each source, layer and attention or MLP: 10
and 20 steps of 8 documents a task out of 32, by the chance of a right answer and by its log-likelihood, and then the
metric on documents that nothing saw. Seeds draw the documents.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from evolve.config.search_yaml import SearchConfig
from evolve.search.descent import descend
from evolve.search.steps import RATIO, Settings, charge
from evolve.trial import Failure, Job
from evolve.workers.evaluator import Evaluator
from evolve.workers.executor import InProcess

HERE = Path(__file__).parent
MODELS = "tasks/demo/models"
SKILLS = {"reverse": "exact_match", "sort": "exact_match", "shift": "exact_match", "pick": "acc", "second": "acc"}
STEPS = (10, 20)
CLIMBED = {"chance": "metric", "loglikelihood": "loglikelihood"}


def config(seed: int, objective: str, report: int) -> SearchConfig:
    return SearchConfig.model_validate(
        {
            "name": "gradients",
            "seed": seed,
            "models": {"base": f"{MODELS}/base", "sources": [f"{MODELS}/{skill}" for skill in SKILLS]},
            "space": {
                "method": "task_arithmetic",
                "layers": "per_layer",
                "modules": ["self_attn", "mlp"],
                "parameters": {"weight": {"low": 0.0, "high": 1.0}},
            },
            "score": {
                "tasks": [{"task": f"demo_{skill}", "metric": metric} for skill, metric in SKILLS.items()],
                "include": ["tasks/demo"],
                "documents": {"search": 32, "selection": 2, "report": report},
                "objective": objective,
                "dtype": "float32",
            },
        }
    )


def climb(seed: int, what: str, report: int) -> dict[str, Any]:
    """The mean metric on the report documents at the start and at the end of climbs, the shorter of which are how the
    longest begins."""
    evaluator = Evaluator(config(seed, CLIMBED[what], report))
    setting = evaluator._setting
    ids = {task: sets.search for task, sets in setting.prepared.documents.items()}
    space, executor = setting.space, InProcess(evaluator)
    result = {"start": metric_of(evaluator, space.decode(space.start[0]))}
    for steps in STEPS:
        found = descend(
            space, space.start[0], executor, setting.checkpoints, ids, seed, remember=lambda facts, _: facts(),
            settings=Settings(most=steps, rounds=100),
        )  # fmt: skip
        result[str(steps)] = metric_of(evaluator, space.decode(found.points[-1]))
    return {"seed": seed, "climbed": what, "steps": len(found.steps), "charged": found.charged, "report": result}


def metric_of(evaluator: Evaluator, recipe: Any) -> float:
    outcome = evaluator.evaluate(Job("report", "report", recipe=recipe)).outcome
    if isinstance(outcome, Failure):
        raise SystemExit(outcome.message)
    return evaluator._setting.objective.metric_only().value(outcome.measures)


def table(runs: list[dict[str, Any]]) -> str:
    cost = charge({skill: range(8) for skill in SKILLS})
    lines = [
        "# What a climb by gradients is worth",
        "",
        "`python results/search/gradients.py`, on the demo's family.",
        "",
        f"Mean metric over the five tasks on the report documents; a step is charged as {cost} scored documents "
        f"({RATIO} each).",
        "",
        f"| climbed | seeds | start | {' | '.join(f'{steps} steps' for steps in STEPS)} |",
        "|---|---|---|---|---|",
    ]
    for what in CLIMBED:
        own = [run["report"] for run in runs if run["climbed"] == what]
        cells = [[each[place] for each in own if place in each] for place in ("start", *map(str, STEPS))]
        shown = [f"{statistics.fmean(cell):.3f} ({len(cell)})" if cell else "" for cell in cells]
        lines.append(f"| {what} | {len(own)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", type=int, default=300, help="documents of each task")
    given = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for what in CLIMBED:
            runs.append(climb(seed, what, given.report))
            print(runs[-1], flush=True)
            (HERE / "gradients.json").write_text(json.dumps(runs, indent=1) + "\n")
            (HERE / "gradients.md").write_text(table(runs))


if __name__ == "__main__":
    main()
