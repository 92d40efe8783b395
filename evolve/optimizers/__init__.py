"""Optimizers behind one `ask` and `tell`. They see the unit cube and nothing else."""

from evolve.optimizers import cma, sampler
from evolve.optimizers.optimizer import Row

OPTIMIZERS: dict[str, Row] = {
    "cma": Row(cma.CmaEs, cma.default_population, "CMA-ES (pycma): the default for continuous genes", grows=True),
    "tpe": Row(sampler.tpe, sampler.default_population, "Optuna's tree-structured Parzen estimator"),
    "random": Row(sampler.random, sampler.default_population, "uniform random points, as a baseline"),
}
