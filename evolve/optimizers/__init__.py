"""Optimizers behind one `ask` and `tell`. They see the unit cube and nothing else."""

from evolve.optimizers import growing, kriging, quasi_random, sampler, strategy
from evolve.optimizers.in_batches import InBatches
from evolve.optimizers.optimizer import Row

OPTIMIZERS: dict[str, Row] = {
    "cma": Row(
        growing.growing_or_plain,
        strategy.default_population,
        "CMA-ES (pycma), whose genes move together at first and part as documents are spent: the default",
        grows=True,
        steady=InBatches,
    ),
    "kriging": Row(
        kriging.Kriging,
        strategy.default_population,
        "Gaussian process that knows which genes belong together: choices and whole numbers, few candidates",
    ),
    "tpe": Row(
        sampler.tpe,
        sampler.default_population,
        "Optuna's tree-structured Parzen estimator: spaces made of choices",
        several=True,
        steady=sampler.alone,
    ),
    "gp": Row(
        sampler.gp,
        sampler.default_population,
        "Optuna's Gaussian process: up to about 20 genes and 100 candidates",
        several=True,
        steady=sampler.alone,
    ),
    "nsga2": Row(
        sampler.nsga2,
        sampler.genetic_population,
        "Optuna's NSGA-II: a front of two or three",
        several=True,
        front=True,
        steady=sampler.alone,
    ),
    "nsga3": Row(
        sampler.nsga3,
        sampler.genetic_population,
        "Optuna's NSGA-III: a front of many",
        several=True,
        front=True,
        steady=sampler.alone,
    ),
    "random": Row(
        sampler.random,
        sampler.default_population,
        "uniform random points, a baseline",
        several=True,
        steady=sampler.alone,
    ),
    "qmc": Row(
        quasi_random.QuasiRandom,
        sampler.default_population,
        "a Sobol sequence, a baseline",
        several=True,
        steady=InBatches,
    ),
}
