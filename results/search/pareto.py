"""B10: fronts instead of one winner. The volume that each arm's front dominates on the report documents.

    python results/search/pareto.py CACHE --seeds 0 1 2      # writes raw/B10/<arm>.json

All arms have one budget. Volumes are measured from the lowest score that base and sources have on each skill.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from arena import EACH, Arena, OutOfBudget
from arms import BLOCKS, SIGMA, decoded, genes
from families import family
from harness import Reporter, entries, keep, revision
from ours import ours
from recipes import Recipe, alone, over_depth
from transformers.utils.logging import disable_progress_bar

from evolve.search.front import hypervolume, lowest, not_dominated

SHARE = 0.87  # of what other searches of ours leave to searching: every recipe of the front is a finalist
WEIGHTS = ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 4.0, 1.0), (1.0, 1.0, 4.0))  # of the skills, one search each


class Seen:
    """All that was scored, and which of it nothing else beats on the search documents."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.rows: list[tuple[Recipe, list[float]]] = []

    def __call__(self, recipe: Recipe) -> list[float]:
        parts = self.arena.parts(recipe, EACH)
        values = list(parts.values()) if parts else [0.0] * len(self.arena.bench.skills)
        self.rows.append((recipe, values))
        return values

    def front(self) -> list[Recipe]:
        kept = not_dominated(np.array([values for _, values in self.rows]))
        return [recipe for (recipe, _), keeps in zip(self.rows, kept, strict=True) if keeps]


def random_front(arena: Arena) -> list[Recipe]:
    seen, draws = Seen(arena), np.random.default_rng(arena.seed)
    try:
        while True:
            seen(decoded(arena, draws.random(genes(arena))))
    except OutOfBudget:
        return seen.front()


def weighted_sums(arena: Arena) -> list[Recipe]:
    """mergekit-evolve's search with task arithmetic, once for each weighting, with an equal part of the budget each."""
    seen, whole = Seen(arena), arena.budget
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma

        for place, weights in enumerate(WEIGHTS, start=1):
            arena.budget = whole * place // len(WEIGHTS)
            start = [1 / len(arena.bench.sources)] * (BLOCKS * len(arena.bench.sources))
            es = cma.CMAEvolutionStrategy(start, SIGMA, {"seed": 10 * arena.seed + place, "verbose": -9})
            try:
                while not es.stop():
                    points = es.ask()
                    es.tell(points, [-float(np.dot(weights, seen(blocks(arena, point)))) for point in points])
            except OutOfBudget:
                continue
    return seen.front()


def blocks(arena: Arena, point: Sequence[float]) -> Recipe:
    table = np.abs(np.asarray(point)).reshape(BLOCKS, len(arena.bench.sources))
    layers = [{"": [{"weight": float(own)} for own in block]} for block in table]
    return over_depth(arena.bench, "task_arithmetic", layers)


def our_front(arena: Arena) -> list[Recipe]:
    ours(optimizer="nsga2", share=SHARE)(arena)
    return [Recipe.from_yaml(file.read_text()) for file in sorted(arena.folder.glob("*/front/*.yaml"))]


FRONTS: dict[str, Callable[[Arena], list[Recipe]]] = {
    "random": random_front,
    "weighted-sums": weighted_sums,
    "ours": our_front,
}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Compare fronts.")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--arms", nargs="*", default=list(FRONTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(10)))
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    disable_progress_bar()
    cache = parsed.cache.resolve()
    bench = family("B10", cache)
    reporter = Reporter(bench, cache)
    for seed in parsed.seeds:
        models = [reporter.score(alone(bench, model), seed) for model in (bench.base, *bench.sources)]
        origin = lowest(models, bench.skills)
        for arm in parsed.arms:
            if str(seed) in entries("B10", arm):
                continue
            arena = Arena(bench, seed, cache / "runs" / f"B10-{arm}-{seed}")
            began = time.process_time()
            found = FRONTS[arm](arena)
            worked = time.process_time() - began
            points = [reporter.score(recipe, seed) for recipe in found]
            volume = hypervolume(points, origin)
            entry = {"hypervolume": round(volume, 6), "front": points, "documents": arena.spent,
                     "processor": round(worked, 1), "revision": revision()}  # fmt: skip
            keep("B10", arm, seed, entry)
            print(f"B10 {arm} {seed}: {volume:.5f} by {len(points)} of {arena.spent} documents", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
