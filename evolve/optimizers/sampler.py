"""Optuna's samplers behind ask and tell, on a private in-memory study.

The sampler is made anew for every point, seeded by the point's number, so that the proposals depend on the
history alone and a replay after an interruption gives the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evolve.optimizers.optimizer import Optimizer, Problem
from evolve.trial import Observation, Point
from search_spaces.gene import Gene


class SamplerOptimizer:
    """`make(seed)` is the sampler of one point; points of one generation are asked before any is told."""

    def __init__(self, problem: Problem, make: Callable[[int], Any]) -> None:
        import optuna

        self._problem = problem
        self._make = make
        self._study = optuna.create_study(direction="maximize")  # in memory
        self._distributions = {gene.name: distribution(gene) for gene in problem.genes}
        self._pending: list[Any] = []
        self._count = 0

    def ask(self) -> list[Point]:
        if self._count == 0 and self._problem.start:
            for point in self._problem.start:
                self._study.enqueue_trial(
                    {gene.name: gene.from_unit(unit) for gene, unit in zip(self._problem.genes, point, strict=True)}
                )
            size = len(self._problem.start)
        else:
            size = self._problem.population
        self._pending = [self._ask_one() for _ in range(size)]
        return [self._point(trial.params) for trial in self._pending]

    def _ask_one(self) -> Any:
        self._study.sampler = self._make((self._problem.seed * 1_000_003 + self._count) % 2**32)
        self._count += 1
        return self._study.ask(fixed_distributions=self._distributions)

    def tell(self, observations: Sequence[Observation]) -> None:
        import optuna

        for trial, seen in zip(self._pending, observations, strict=True):
            if self._point(trial.params) == seen.point:
                self._study.tell(trial, seen.value)
                continue
            # The recorded points are the truth where asking again gave others.
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            params = {
                gene.name: gene.from_unit(unit) for gene, unit in zip(self._problem.genes, seen.point, strict=True)
            }
            self._study.add_trial(
                optuna.trial.create_trial(params=params, distributions=self._distributions, value=seen.value)
            )

    def recommend(self) -> Point | None:
        return None

    def decisions(self) -> list[dict[str, Any]]:
        return []

    def _point(self, params: dict[str, Any]) -> Point:
        return tuple(gene.to_unit(params[gene.name]) for gene in self._problem.genes)


def distribution(gene: Gene) -> Any:
    """The gene as one of Optuna's distributions."""
    import optuna

    if gene.choices:
        return optuna.distributions.CategoricalDistribution(gene.choices)
    if gene.integer:
        return optuna.distributions.IntDistribution(int(gene.low), int(gene.high))
    return optuna.distributions.FloatDistribution(gene.low, gene.high)


def tpe(problem: Problem) -> Optimizer:
    """TPE with a constant liar for the points of one generation (Bergstra et al. 2011; Watanabe 2023)."""
    import optuna

    return SamplerOptimizer(
        problem, lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=10)
    )


def random(problem: Problem) -> Optimizer:
    """Independent uniform points."""
    import optuna

    return SamplerOptimizer(problem, lambda seed: optuna.samplers.RandomSampler(seed=seed))


def default_population(d: int) -> int:
    """Small, since these samplers learn after every generation and not by its spread."""
    del d
    return 4
