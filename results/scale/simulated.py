"""Workers that take their time by a clock of their own: a thousand of them fit into one process.

Everything else is real: the loop, its optimizer, races, records in a ledger. The driver is one process, so what it
does between two answers takes its own processor time on the same clock: workers wait for it as they would.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.recipe import Recipe
from evolve.trial import Evaluation, Job
from search_spaces import SPACES
from search_spaces.assemble import Spec
from search_spaces.bounds import Range
from search_spaces.depth import Family
from search_spaces.space import SearchSpace, search_space
from tasks.objective import Goal, Objective
from tasks.score import Score

TASKS, EACH = ("arithmetic", "sentiment", "grammar"), 100
DOCUMENTS = {task: tuple(range(EACH)) for task in TASKS}
OBJECTIVE = Objective(tuple(Goal(task, "acc,none", 1.0, True) for task in TASKS))
DIFFICULTY = {task: [random.Random(f"{task} {each}").random() for each in range(EACH)] for task in TASKS}


def space_of(sources: int, layers: int) -> SearchSpace:
    """Task arithmetic with a weight per source and layer, and one per source for what lies outside of the layers."""
    names = tuple(f"expert-{number}" for number in range(sources))
    family = Family("base", names, layers, ("embed",), "float32")
    return search_space(
        Spec(family, ("task_arithmetic",), SPACES["blocks"], layers, (), {"weight": Range(0.0, 1.5)}, 0)
    )


def quality(recipe: Recipe) -> float:
    """A smooth landscape of the recipe's weights, with an optimum that differs from weight to weight."""
    gaps = [weight - best_weight(place) for place, weight in enumerate(weights_of(recipe.model_dump()))]
    return 0.85 - sum(gap**2 for gap in gaps) / len(gaps) if gaps else 0.3


def best_weight(place: int) -> float:
    return 0.3 + 0.9 * random.Random(place).random()


def weights_of(node: Any) -> list[float]:
    """All weights below a node of a recipe, in its order."""
    if isinstance(node, list | tuple):
        return [each for value in node for each in weights_of(value)]
    if not isinstance(node, dict):
        return []
    own = node.get("weight")
    given = own if isinstance(own, list | tuple) else [] if own is None else [{"value": own}]
    numbers = [float(each["value"]) if isinstance(each, dict) else float(each) for each in given]
    return numbers + [each for key, value in node.items() if key != "weight" for each in weights_of(value)]


def noise(recipe: Recipe) -> float:
    """A landscape without any shape, for what does not depend on it."""
    return random.Random(recipe.digest).uniform(0.3, 0.7)


@dataclass
class Cluster:
    """`workers` whose whole candidates take log-normal times with a mean of `minutes` and `sigma`; a part of the
    documents takes its part. `landscape`: the share of documents that a recipe answers rightly."""

    workers: int
    minutes: float
    sigma: float
    landscape: Any
    seed: int = 0
    clock: float = 0.0  # seconds
    busy: float = 0.0  # of all workers, with what they have answered
    driver: float = 0.0  # processor seconds between answers
    answers: int = 0
    _given: int = 0

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        pull, began = iter(jobs), time.process_time()
        running: list[tuple[float, int, float, Job]] = []
        while True:
            job = next(pull, None) if len(running) < self.workers else None
            self._charge(time.process_time() - began)
            if job is not None:
                seconds, self._given = self._seconds(job), self._given + 1
                heapq.heappush(running, (self.clock + seconds, self._given, seconds, job))
                began = time.process_time()
                continue
            if not running:
                return
            ended, _, seconds, job = heapq.heappop(running)
            self.clock = max(self.clock, ended)
            self.busy += seconds
            self.answers += 1
            evaluation = self._answer(job)
            began = time.process_time()
            yield job, evaluation

    def close(self) -> None:
        """Nothing to release."""

    def _charge(self, seconds: float) -> None:
        self.clock += seconds
        self.driver += seconds

    def _seconds(self, job: Job) -> float:
        whole = random.Random(f"{self.seed} {job.key}").lognormvariate(-(self.sigma**2) / 2, self.sigma)
        part = sum(map(len, (job.only or DOCUMENTS).values())) / (EACH * len(TASKS))
        return 60 * self.minutes * whole * part

    def _answer(self, job: Job) -> Evaluation:
        if job.recipe is None:
            raise ValueError("only recipes are simulated")
        share, luck = self.landscape(job.recipe), random.Random(job.key)
        measures = {
            task: {"acc,none": {each: float(share + luck.gauss(0, 0.1) > DIFFICULTY[task][each]) for each in ids}}
            for task, ids in (job.only or DOCUMENTS).items()
        }
        return Evaluation(Score(measures, {}), {"total": 1.0})
