"""The arms: ways to search with one budget of scored documents. `ARMS[name](arena)` gives what was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from arena import EACH, POOLED, Arena, Found, OutOfBudget
from order import relaxed
from ours import ours
from recipes import DENSITIES, STRENGTHS, TIES_STRENGTHS, average, dare, over_depth, task_arithmetic, ties

from engine.methods import METHODS
from engine.recipe import Recipe

BLOCKS = 3  # groups of two layers
SIGMA = 1 / 6  # mergekit-evolve's initial step
LEAST_DENSITY = 0.01  # below which nothing would be left of a source


def best_of(arena: Arena, recipes: Sequence[Recipe]) -> Found:
    """The best, each scored on as many documents as the whole budget gives for all of them."""
    each = min(POOLED, arena.budget // (len(recipes) * len(arena.bench.skills)))
    values = [arena.score(recipe, each) for recipe in recipes]
    return Found(recipes[int(np.argmax(values))], notes={"search": round(max(values), 4), "each": each})


def greedy_soup(arena: Arena) -> Found:
    """Wortsman et al. 2022, "Model soups": sources by score; each stays if the average is not worse with it."""
    sources = arena.bench.sources
    each = min(POOLED, arena.budget // (2 * len(sources) * len(arena.bench.skills)))
    alone = {source: arena.score(average(arena.bench, [source]), each) for source in sources}
    ranked = sorted(sources, key=lambda source: -alone[source])
    kept, value = [ranked[0]], alone[ranked[0]]
    for source in ranked[1:]:
        with_it = arena.score(average(arena.bench, [*kept, source]), each)
        if with_it >= value:
            kept, value = [*kept, source], with_it
    return Found(average(arena.bench, kept), notes={"search": round(value, 4), "each": each, "kept": len(kept)})


class BestEver:
    """Scores candidates until the budget ends, and remembers the best."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self.count, self.value = arena, 0, -np.inf
        self.recipe: Recipe | None = None

    def __call__(self, recipe: Recipe) -> float:
        """Raises OutOfBudget."""
        value = self._arena.score(recipe, EACH)
        self.count += 1
        if value > self.value:
            self.recipe, self.value = recipe, value
        return value

    def found(self) -> Found:
        if self.recipe is None:
            raise RuntimeError("nothing could be scored")
        return Found(self.recipe, notes={"search": round(float(self.value), 4), "candidates": self.count})


def genes(arena: Arena) -> int:
    """One weight a source for each block, and one for what is in no layer."""
    return len(arena.bench.sources) * (BLOCKS + 1)


def bounds() -> tuple[float, float]:
    """The method's own, as our search has them."""
    (weight,) = (p for p in METHODS["task_arithmetic"].parameters if p.name == "weight")
    if weight.low is None or weight.high is None:
        raise RuntimeError("task_arithmetic declares no bounds of its weight")
    return float(weight.low), float(weight.high)


def decoded(arena: Arena, unit: Sequence[float]) -> Recipe:
    """The recipe at a point of the unit cube; its numbers by source, each with blocks first."""
    low, high = bounds()
    table = (low + (high - low) * np.asarray(unit)).reshape(len(arena.bench.sources), BLOCKS + 1)
    layers = [{"": [{"weight": float(own[block])} for own in table]} for block in range(BLOCKS)]
    return over_depth(arena.bench, "task_arithmetic", layers, [{"weight": float(own[BLOCKS])} for own in table])


def random(arena: Arena) -> Found:
    draws, best = np.random.default_rng(arena.seed), BestEver(arena)
    try:
        while True:
            best(decoded(arena, draws.random(genes(arena))))
    except OutOfBudget:
        return best.found()


def optuna_arm(make: Callable[[Any, int], Any]) -> Callable[[Arena], Found]:
    """One of Optuna's samplers with its defaults, one trial after the other."""

    def arm(arena: Arena) -> Found:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        best = BestEver(arena)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(direction="maximize", sampler=make(optuna, arena.seed))
            try:
                while True:
                    trial = study.ask()
                    unit = [trial.suggest_float(f"w{i}", 0.0, 1.0) for i in range(genes(arena))]
                    study.tell(trial, best(decoded(arena, unit)))
            except OutOfBudget:
                return best.found()

    return arm


def mergekit_evolve(method: str) -> Callable[[Arena], Found]:
    """mergekit-evolve's search and genome (groups of two layers, as its documentation's example has quarters)."""
    names = ("weight",) if method == "task_arithmetic" else ("weight", "density")
    shared: Mapping[str, Any] = {} if method == "task_arithmetic" else {"normalize": True}

    def decode(arena: Arena, genotype: np.ndarray[Any, Any]) -> Recipe:
        table = np.abs(genotype).reshape(BLOCKS, len(arena.bench.sources), len(names))
        if len(names) > 1:
            table[:, :, 1] = np.clip(table[:, :, 1], LEAST_DENSITY, 1.0)
        layers = [{"": [dict(zip(names, map(float, own), strict=True)) for own in block]} for block in table]
        return over_depth(arena.bench, method, layers, **shared)

    def arm(arena: Arena) -> Found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cma

            start = np.ones((BLOCKS, len(arena.bench.sources), len(names)))
            start[:, :, 0] = 1 / len(arena.bench.sources)
            es = cma.CMAEvolutionStrategy(start.ravel(), SIGMA, {"seed": arena.seed + 1, "verbose": -9})
            best = BestEver(arena)
            try:
                while not es.stop():
                    points = es.ask()
                    es.tell(points, [-best(decode(arena, point)) for point in points])
            except OutOfBudget:
                pass
            return best.found()

    return arm


def longer(times: int, arm: Callable[[Arena], Found]) -> Callable[[Arena], Found]:
    """The arm with so many times the budget."""

    def run(arena: Arena) -> Found:
        arena.budget *= times
        return arm(arena)

    return run


ARMS: dict[str, Callable[[Arena], Found]] = {
    "uniform": lambda arena: Found(average(arena.bench)),
    "dare": lambda arena: Found(dare(arena.bench)),
    "greedy-soup": greedy_soup,
    "task-arithmetic": lambda arena: best_of(arena, [task_arithmetic(arena.bench, s) for s in STRENGTHS]),
    "ties": lambda arena: best_of(arena, [ties(arena.bench, *pair) for pair in product(DENSITIES, TIES_STRENGTHS)]),
    "random": random,
    "tpe": optuna_arm(lambda optuna, seed: optuna.samplers.TPESampler(seed=seed)),
    "gp": optuna_arm(lambda optuna, seed: optuna.samplers.GPSampler(seed=seed)),
    "mergekit-evolve": mergekit_evolve("dare_ties"),
    "mergekit-evolve-task-arithmetic": mergekit_evolve("task_arithmetic"),
    "relaxed": relaxed,  # B9 only
    "ours-without-gradients": ours(gradients=False),
    "ours": ours(),
    "mergekit-evolve-task-arithmetic-5x": longer(5, mergekit_evolve("task_arithmetic")),  # B2
    "ours-unraced": ours(race=False, gradients=False),  # B5, beside the next
    "ours-raced-third": ours(share=1 / 3, gradients=False),
    "ours-faults": ours(faults=0.1),  # B11
    "ours-16": ours(16, pool=16),  # B4, with the two next
    "ours-64": ours(64, pool=64),
    "ours-256": ours(256, pool=256),
}
ONLY_ASKED = (
    "relaxed",
    "mergekit-evolve-task-arithmetic-5x",
    "ours-unraced",
    "ours-raced-third",
    "ours-faults",
    "ours-16",
    "ours-64",
    "ours-256",
)
"""Arms of single benchmarks, which run where they are named."""
