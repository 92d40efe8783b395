"""What the seeds come to together: the winners against every baseline and every peer, on the report documents.

    python results/real-135m/pooled.py FAMILY --work DIR [--seeds 0 1 2]

Reads the runs in DIR (run.py) and seed-N/*.json (peers.py); writes answers.json, every right and wrong answer, and
pooled.md. A greedy soup is the one that its seed's search ended with. The report documents of seeds overlap, so that
intervals are of documents drawn anew, each with what all seeds found on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from peers import PEERS
from run import HERE, options, prepared, run_folder

from engine.recipe import Recipe
from evolve.conclusion.finalists import opening_recipes
from evolve.conclusion.verdict import others
from evolve.config.search_yaml import load_config
from evolve.preparation.belonging import storage_url
from evolve.preparation.setting import Setting
from evolve.search.baselines import model_recipes
from evolve.storage.items import Items
from evolve.storage.ledger import Ledger
from evolve.trial import Failure, Job
from evolve.workers.evaluator import Evaluator
from evolve.workers.executor import InProcess
from evolve.workers.remembering import Keys, Remembering

DRAWS = 10_000
Answers = dict[str, dict[str, dict[str, int]]]  # row -> task -> document -> 1 where it is right
WINNER, SOUP = "winner", "greedy soup"


def rows_of(setting: Setting, folder: Path, seed: int) -> dict[str, Recipe]:
    """The winner, the baselines and the peers by name."""
    rows = {WINNER: Recipe.from_yaml((folder / "best.yaml").read_text())}
    trials = Ledger(storage_url(setting.config), setting.config.name, must_exist=True).trials()
    plain = model_recipes(setting.family) | others(setting.family, opening_recipes(trials, setting.space))
    soups = {name: recipe for name, recipe in plain.items() if name.startswith(SOUP)}
    rows |= {name: recipe for name, recipe in plain.items() if name not in soups}
    rows |= {SOUP: soups[max(soups)]} if soups else {}
    for arm in PEERS:
        file = HERE / f"seed-{seed}" / f"{arm}.json"
        if file.exists():
            rows[arm] = Recipe.model_validate(json.loads(file.read_text())["recipe"])
    return rows


def answers_of(setting: Setting, rows: Mapping[str, Recipe]) -> Answers:
    """Of every row to every report document; what the search's own report asked is not asked again."""
    config = setting.config
    executor = Remembering(InProcess(Evaluator(config)), Items(config.folder / "items"), Keys(setting))
    goals = {goal.task: goal.measure for goal in setting.objective.goals}
    found: Answers = {}
    for name, recipe in rows.items():
        ((_, evaluation),) = executor.run([Job(recipe.digest, "report", recipe)])
        if isinstance(evaluation.outcome, Failure):
            raise RuntimeError(f"{name}: {evaluation.outcome.message}")
        digests = Keys(setting).digests("report")
        measures = evaluation.outcome.measures
        found[name] = {
            task: {digests[task][each][:12]: int(value) for each, value in measures[task][measure].items()}
            for task, measure in goals.items()
        }
    return found


def packed(answers: Answers) -> dict[str, dict[str, str]]:
    """By task the documents, and of every row a digit for each of them."""
    documents = {task: " ".join(its) for task, its in answers[WINNER].items()}
    rows = {
        name: {task: "".join(str(its[each]) for each in documents[task].split()) for task, its in own.items()}
        for name, own in answers.items()
    }
    return {"documents": documents, **rows}


def mean_of(answers: Mapping[str, Mapping[str, int]]) -> float:
    return float(np.mean([np.mean(list(its.values())) for its in answers.values()]))


def pooled_gap(seeds: Mapping[str, Answers], row: str) -> tuple[float, float, float]:
    """How much the winners are ahead of a row: the mean over seeds of means over tasks, and its 95 % interval."""
    draws, parts = np.random.default_rng(0), []
    tasks = next(iter(seeds.values()))[WINNER]
    for task in tasks:
        documents = sorted({each for answers in seeds.values() for each in answers[WINNER][task]})
        place = {document: number for number, document in enumerate(documents)}
        gaps = np.full((len(seeds), len(documents)), np.nan)
        for number, answers in enumerate(seeds.values()):
            for document, right in answers[WINNER][task].items():
                gaps[number, place[document]] = right - answers[row][task][document]
        there = ~np.isnan(gaps)
        times = draws.multinomial(len(documents), np.full(len(documents), 1 / len(documents)), size=DRAWS)
        times = np.vstack([np.ones_like(times[:1]), times])  # the first row: as they are
        parts.append(((times @ np.nan_to_num(gaps).T) / (times @ there.T)).mean(axis=1))
    means = np.mean(parts, axis=0)
    low, high = np.percentile(means[1:], [2.5, 97.5])
    return float(means[0]), float(low), float(high)


def table(seeds: Mapping[str, Answers]) -> str:
    shared = [row for row in next(iter(seeds.values())) if all(row in answers for answers in seeds.values())]
    lines = [
        f"| model | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | winners ahead by (95 % interval) |",
        "|---|" + "---|" * (len(seeds) + 2),
    ]
    for row in sorted(shared, key=lambda row: -np.mean([mean_of(answers[row]) for answers in seeds.values()])):
        means = [100 * mean_of(answers[row]) for answers in seeds.values()]
        ahead = "" if row == WINNER else "{:.2f} ({:.2f} to {:.2f})".format(*(100 * v for v in pooled_gap(seeds, row)))
        lines.append(f"| {row} | {' | '.join(f'{mean:.1f}' for mean in means)} | {np.mean(means):.1f} | {ahead} |")
    return "\n".join(lines)


def main() -> None:
    arguments = options(__doc__).parse_args()
    family, work = arguments.family.resolve(), arguments.work.resolve()
    seeds: dict[str, Answers] = {}
    for seed in arguments.seeds:
        os.chdir(prepared(family, work, seed))
        setting = Setting(load_config(Path("search.yaml")))
        seeds[str(seed)] = answers_of(setting, rows_of(setting, run_folder(Path.cwd()), seed))
    (HERE / "answers.json").write_text(json.dumps({seed: packed(answers) for seed, answers in seeds.items()}) + "\n")
    (HERE / "pooled.md").write_text(f"Made by `pooled.py` from answers.json.\n\n{table(seeds)}\n")


if __name__ == "__main__":
    main()
