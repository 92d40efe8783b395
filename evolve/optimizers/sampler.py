"""Optuna's samplers behind ask and tell, on a private in-memory study. Whole numbers and choices are native to them.

The sampler is made anew for every point, seeded by the point's number, so that the proposals depend on the
history alone and a replay after an interruption gives the same ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from evolve.optimizers.optimizer import Optimizer, Problem
from evolve.optimizers.partition import coarsest
from evolve.trial import Observation, Point
from search_spaces.gene import Gene

VIOLATION = "violation"  # of the floors, a trial's attribute: what a sampler of several objectives is constrained by
SPREAD = 0.15  # standard deviation of a first population's shared weights, in units of their range


class SamplerOptimizer:
    """`make(seed)` is the sampler of one point; points of one generation are asked before any is told.

    `first`: the points of the generation after the start, where the sampler's own would be uniform ones.
    """

    def __init__(
        self,
        problem: Problem,
        make: Callable[[int], Any],
        first: Callable[[Problem, Point], list[Point]] | None = None,
    ) -> None:
        import optuna

        self._problem = problem
        self._make = make
        self._first = first
        self._study = optuna.create_study(directions=["maximize"] * problem.objectives)  # in memory
        self._distributions = {gene.name: distribution(gene) for gene in problem.genes}
        self._pending: list[Any] = []
        self._drawn: dict[Point, list[Any]] = {}  # one by one, and not told yet
        self._count = 0
        self._best: tuple[float, Point] | None = None

    def ask(self) -> list[Point]:
        if not self._pending:
            self._pending = self._next()
        return [self._point(trial.params) for trial in self._pending]

    def _next(self) -> list[Any]:
        return [self._ask_one() for _ in range(self._enqueued() or self._problem.population)]

    def _enqueued(self) -> int:
        """How many points are given, before the sampler finds some of its own."""
        given: Sequence[Point] = ()
        if self._count == 0:
            given = self._problem.start
        elif self._first is not None and self._count == len(self._problem.start):
            given = self._first(self._problem, self._center())
        for point in given:
            self._study.enqueue_trial(self._values(point))
        return len(given)

    def _ask_one(self) -> Any:
        with quiet():
            self._study.sampler = self._make((self._problem.seed * 1_000_003 + self._count) % 2**32)
            self._count += 1
            return self._study.ask(fixed_distributions=self._distributions)

    def tell(self, observations: Sequence[Observation]) -> None:
        pending, self._pending = self._pending, []
        for trial, seen in zip(pending, observations, strict=True):
            self._settle(trial, seen)

    def draw(self) -> Point:
        """One point, beside those that were drawn and are not told yet."""
        trial = self._draw_one()
        point = self._point(trial.params)
        self._drawn.setdefault(point, []).append(trial)
        return point

    def learn(self, seen: Observation) -> None:
        """An observation by itself; of a point that another start had drawn in place of one that is drawn now."""
        trials = self._drawn.pop(seen.point, None) or [self._draw_one()]
        self._settle(trials.pop(0), seen)
        if trials:
            self._drawn[seen.point] = trials

    def _draw_one(self) -> Any:
        if self._first is not None and self._count == len(self._problem.start):
            self._enqueued()
        return self._ask_one()

    def _settle(self, trial: Any, seen: Observation) -> None:
        self._best = max(self._best or (-np.inf, ()), (seen.value, seen.point))
        values = [seen.value] if self._problem.objectives == 1 else list(seen.values)
        if self._point(trial.params) == seen.point:
            trial.set_user_attr(VIOLATION, seen.violation)
            self._study.tell(trial, values)
        else:
            self._replace(trial, seen, values)

    def _replace(self, trial: Any, seen: Observation, values: list[float]) -> None:
        """The recorded points are the truth where asking again gave others."""
        from optuna.trial import TrialState, create_trial

        kept = self._study.get_trials(deepcopy=False)[trial.number].system_attrs  # NSGA's generation
        self._study.tell(trial, state=TrialState.FAIL)
        self._study.add_trial(
            create_trial(
                params=self._values(seen.point),
                distributions=self._distributions,
                values=values,
                user_attrs={VIOLATION: seen.violation},
                system_attrs={**kept, **({"constraints": (seen.violation,)} if self._problem.objectives > 1 else {})},
            )
        )

    def recommend(self) -> Point | None:
        return None

    def decisions(self) -> list[dict[str, Any]]:
        return []

    def _center(self) -> Point:
        return self._problem.mean or (self._best[1] if self._best else (0.5,) * len(self._problem.genes))

    def _values(self, point: Point) -> dict[str, Any]:
        return {gene.name: gene.from_unit(unit) for gene, unit in zip(self._problem.genes, point, strict=True)}

    def _point(self, params: dict[str, Any]) -> Point:
        return tuple(gene.to_unit(params[gene.name]) for gene in self._problem.genes)


def alone(optimizer: SamplerOptimizer) -> SamplerOptimizer:
    """Samplers are asked and told of single points as they are."""
    return optimizer


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna warns that arguments are experimental, and how it samples choices, which no user can act upon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def distribution(gene: Gene) -> Any:
    """The gene as one of Optuna's distributions."""
    import optuna

    if gene.choices:
        return optuna.distributions.CategoricalDistribution(gene.choices)
    if gene.integer:
        return optuna.distributions.IntDistribution(int(gene.low), int(gene.high))
    return optuna.distributions.FloatDistribution(gene.low, gene.high)


def tied_normal(problem: Problem, center: Point) -> list[Point]:
    """`population` points around `center`, where all genes of one parameter and model move together.

    Uniform points, as a genetic algorithm begins with, are far from any good merge when there are many genes.
    Choices and whole numbers are drawn uniformly, one in three.
    """
    generator = np.random.Generator(np.random.PCG64(problem.seed))
    points = np.tile(np.array(center), (problem.population, 1))
    for group in coarsest(problem.genes):
        move = SPREAD * generator.standard_normal(problem.population)
        free = generator.random(problem.population)
        changed = generator.random(problem.population) < 1 / 3
        for index in group:
            gene = problem.genes[index]
            if gene.choices or gene.integer:
                points[changed, index] = free[changed]
            else:
                points[:, index] += move
    return [tuple(float(unit) for unit in point) for point in np.clip(points, 0.0, 1.0)]


def violations(trial: Any) -> tuple[float, ...]:
    return (float(trial.user_attrs.get(VIOLATION, 0.0)),)


def constraints(problem: Problem) -> Any:
    """Of one objective the value itself ranks what misses a floor last."""
    return violations if problem.objectives > 1 else None


def tpe(problem: Problem) -> Optimizer:
    """TPE of joint densities, with a constant liar for the points of one generation (Bergstra et al. 2011; Falkner et
    al. 2018; Watanabe 2023)."""
    import optuna

    return SamplerOptimizer(
        problem,
        lambda seed: optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, constraints_func=constraints(problem)
        ),
    )


def gp(problem: Problem) -> Optimizer:
    """Gaussian process with a Matern 5/2 kernel and log expected improvement (Ament et al. 2023)."""
    import optuna

    return SamplerOptimizer(
        problem, lambda seed: optuna.samplers.GPSampler(seed=seed, constraints_func=constraints(problem))
    )


def nsga2(problem: Problem) -> Optimizer:
    """NSGA-II (Deb et al. 2002)."""
    import optuna

    return genetic(problem, optuna.samplers.NSGAIISampler)


def nsga3(problem: Problem) -> Optimizer:
    """NSGA-III (Deb and Jain 2014)."""
    import optuna

    return genetic(problem, optuna.samplers.NSGAIIISampler)


def genetic(problem: Problem, sampler: Callable[..., Any]) -> Optimizer:
    """One of Optuna's genetic algorithms, whose population is the generation."""
    settings = {"population_size": problem.population, "constraints_func": constraints(problem)}
    return SamplerOptimizer(problem, lambda seed: sampler(seed=seed, **settings), first=tied_normal)


def random(problem: Problem) -> Optimizer:
    """Independent uniform points."""
    import optuna

    return SamplerOptimizer(problem, lambda seed: optuna.samplers.RandomSampler(seed=seed))


def default_population(d: int) -> int:
    """Small, since these samplers learn after every generation and not by its spread."""
    del d
    return 4


def genetic_population(d: int) -> int:
    """A front needs members; with more, there are too few generations in a hundred candidates."""
    del d
    return 16
