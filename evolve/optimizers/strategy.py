"""pycma, driven by points alone: no global generator, no output, no clock.

Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolve.trial import Point
from search_spaces.gene import Gene

Vector = NDArray[np.float64]

DIAGONAL_FROM = 400  # genes, from which on only variances are adapted: covariances would take 100 d evaluations


def strategy(
    mean: Vector,
    deviations: Vector,
    least: Vector,
    population: int,
    seed: int,
    bounds: tuple[float, float] | None = None,
) -> Any:
    """A pycma strategy that begins at `mean`, (d,), with standard deviations `deviations`, (d,), which never fall
    below `least`, (d,).

    `bounds` are kept by pycma's smooth transformation, which has no flat places as clipping has.
    """
    with silence():  # about matplotlib, which it would plot with
        import cma
    generator = np.random.RandomState(seed % 2**32)
    options = {
        "popsize": population,
        "CMA_stds": deviations,
        "CMA_diagonal": len(mean) >= DIAGONAL_FROM,
        "minstd": least,
        "seed": np.nan,  # do not seed numpy's global generator, which pycma draws from unless it is given one
        "randn": lambda *shape: generator.randn(*shape),
        "verbose": -9,
        "verb_log": 0,
        "verb_disp": 0,
        **({"bounds": list(bounds)} if bounds else {}),
    }
    with silence():
        return cma.CMAEvolutionStrategy(mean, 1.0, options)


def margins(genes: tuple[Gene, ...]) -> Vector:
    """The least standard deviation of every gene, (d,): with the mean in the middle of a choice's or whole number's
    share of the interval, one sample in twenty still takes another (as the margin of Hamano et al., 2022, does)."""
    counts = [len(gene.choices) or (int(gene.high) - int(gene.low) + 1 if gene.integer else 0) for gene in genes]
    return np.array([0.25 / count if count else 0.0 for count in counts])


def as_point(x: Any) -> Point:
    return tuple(float(value) for value in np.clip(x, 0.0, 1.0))


@contextmanager
def silence() -> Iterator[None]:
    """pycma warns of its own choices (small populations, flat values), which no user can act upon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def default_population(d: int) -> int:
    """Twelve, where equation (48) of the tutorial has 4 + floor(3 ln d).

    Against the noise of 160 documents, 12 came further than 6, 8 and 10 with few genes, and than 16 and 20 with many,
    in 40 and in 100 candidates.
    """
    del d
    return 12
