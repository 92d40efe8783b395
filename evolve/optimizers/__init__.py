"""Optimizers behind one `ask` and `tell`. They see the unit cube and nothing else."""

from evolve.optimizers import growing, quasi_random, sampler, strategy
from evolve.optimizers.optimizer import Row

OPTIMIZERS: dict[str, Row] = {
    "cma": Row(growing.growing_or_plain, strategy.default_population, "CMA-ES (pycma): the default", grows=True),
    "tpe": Row(sampler.tpe, sampler.default_population, "Optuna's tree-structured Parzen estimator", several=True),
    "gp": Row(sampler.gp, sampler.default_population, "Optuna's Gaussian process: few genes, few trials", several=True),
    "nsga2": Row(sampler.nsga2, sampler.genetic_population, "Optuna's NSGA-II: a front of two or three", several=True),
    "nsga3": Row(sampler.nsga3, sampler.genetic_population, "Optuna's NSGA-III: a front of many", several=True),
    "qmc": Row(quasi_random.QuasiRandom, sampler.default_population, "a Sobol sequence, as a baseline", several=True),
    "random": Row(sampler.random, sampler.default_population, "uniform random points, as a baseline", several=True),
}
