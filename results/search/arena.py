"""What an arm sees: a family, a seed, and a scorer that keeps the accounts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from families import Bench
from recipes import Recipe

from evolve.config.search_yaml import SearchConfig
from evolve.preparation.setting import Setting
from evolve.trial import Failure, Job
from evolve.workers.evaluator import Evaluator

CANDIDATES: Mapping[str, int] = {"B9": 300}  # the budget, which is 100 elsewhere
EACH = 32  # documents a skill that a candidate is scored on
POOLED = 500  # documents a skill that an arm may draw on, in the seed's order
Items = dict[str, dict[int, float]]  # skill -> document -> 1.0 where the greedy answer is exactly right


class OutOfBudget(Exception):
    """What an arm wants to score does not fit into what is left."""


@dataclass(frozen=True)
class Found:
    """What an arm returns: its winner, whether it claims a gain over all plain merges (None: says nothing), notes."""

    recipe: Recipe
    claims: bool | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def configuration(bench: Bench, seed: int, prefix: str, documents: Mapping[str, int], output: Path) -> SearchConfig:
    """A search.yaml as a value: the tasks `<prefix>_<skill>` in float32."""
    return SearchConfig.model_validate(
        {
            "name": f"{bench.name}-{prefix}-{seed}",
            "seed": seed,
            "models": {"base": bench.base, "sources": list(bench.sources)},
            "space": {"method": "task_arithmetic"},
            "score": {
                "tasks": [{"task": f"{prefix}_{skill}", "metric": "acc"} for skill in bench.skills],
                "include": [bench.tasks],
                "documents": dict(documents),
                "dtype": "float32",
            },
            "run": {"output": str(output)},
        }
    )


class Answers:
    """Scores of recipes on one set of a configuration, by skill and document; nothing is scored twice."""

    def __init__(self, config: SearchConfig) -> None:
        self._evaluator = Evaluator(config, threads=1)
        self._ids = {task.split("_", 1)[1]: sets.search for task, sets in Setting(config).prepared.documents.items()}
        self._prefix = config.score.tasks[0].task.split("_", 1)[0]
        self.known: dict[str, Items] = {}

    def order(self, skill: str, seed: int) -> list[int]:
        """The skill's documents as the seed shuffles them."""
        ids = sorted(self._ids[skill])
        random.Random(f"{skill} {seed}").shuffle(ids)
        return ids

    def learn(self, recipe: Recipe, items: Items) -> None:
        """Take over what was scored before."""
        for skill, own in items.items():
            self.known.setdefault(recipe.digest, {each: {} for each in items})[skill] |= own

    def missing(self, recipe: Recipe, wanted: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        known = self.known.get(recipe.digest, {})
        return {skill: tuple(i for i in ids if i not in known.get(skill, {})) for skill, ids in wanted.items()}

    def score(self, recipe: Recipe, wanted: Mapping[str, Sequence[int]]) -> Items | None:
        """The items of the wanted documents; None for a recipe that cannot be scored."""
        missing = self.missing(recipe, wanted)
        known = self.known.setdefault(recipe.digest, {skill: {} for skill in wanted})
        if any(missing.values()):
            only = {f"{self._prefix}_{skill}": ids for skill, ids in missing.items() if ids}
            outcome = self._evaluator.evaluate(Job(recipe.digest, "search", recipe=recipe, only=only)).outcome
            if isinstance(outcome, Failure):
                return None
            for skill in missing:
                known[skill] |= outcome.measures.get(f"{self._prefix}_{skill}", {}).get("acc,none", {})
        return {skill: {i: known[skill][i] for i in ids} for skill, ids in wanted.items()}


def means(items: Items) -> dict[str, float]:
    return {skill: float(np.mean(list(values.values()))) for skill, values in items.items()}


class Arena:
    """What an arm sees: the family, the seed, and a scorer that keeps the accounts."""

    def __init__(self, bench: Bench, seed: int, folder: Path) -> None:
        self.bench, self.seed, self.folder = bench, seed, folder
        self.budget = CANDIDATES.get(bench.name, 100) * EACH * len(bench.skills)
        self.spent = 0

    @cached_property
    def answers(self) -> Answers:
        sizes = {"search": POOLED, "selection": 2, "report": 2}
        return Answers(configuration(self.bench, self.seed, "bench", sizes, self.folder))

    @property
    def left(self) -> int:
        return self.budget - self.spent

    def charge(self, documents: float) -> None:
        """Raises OutOfBudget and charges nothing where it does not fit."""
        if documents > self.left:
            raise OutOfBudget
        self.spent += round(documents)

    def parts(self, recipe: Recipe, each: int = EACH) -> dict[str, float] | None:
        """By skill, on the seed's first `each` documents of it; None for a recipe that fails."""
        wanted = {skill: self.answers.order(skill, self.seed)[:each] for skill in self.bench.skills}
        self.charge(sum(map(len, self.answers.missing(recipe, wanted).values())))
        items = self.answers.score(recipe, wanted)
        return None if items is None else means(items)

    def score(self, recipe: Recipe, each: int = EACH) -> float:
        """Mean over skills of `parts`; -1 for a recipe that fails."""
        parts = self.parts(recipe, each)
        return -1.0 if parts is None else float(np.mean(list(parts.values())))
