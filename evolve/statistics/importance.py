"""Which genes mattered: what groups of genes explain of the differences between a search's candidates.

A hundred noisy candidates cannot say what each of sixty genes did. Asked is therefore about groups (a parameter of a
source; a part of the depth; a module group), and with an answer that may be "cannot be told":

- Points and values are centred within generations: an optimizer moves its genes together and towards better values, so
  that over generations everything goes with everything. Within one the points are independent draws.
- `share`: of the variance of values, what a ridge regression on all genes predicts of left-out candidates, less what
  one without the group does (leave-one-out R²; its closed form: Allen 1974, PRESS), with its standard error.
- `p`: how often as much would be seen if the group did nothing, by permuting what the other genes leave unexplained
  within generations: given what was told before, a candidate's genes are drawn without regard to each other. Corrected
  for the number of groups (Holm 1979). Where an optimizer draws genes together, it errs on the side of saying nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evolve.statistics.levels import SURE
from evolve.trial import Trial
from search_spaces.gene import Gene

Array = npt.NDArray[np.float64]

DRAWN = ("", "search")  # origins of candidates that an optimizer drew: others were placed
FEWEST = 20  # candidates, below which nothing is said
MOST = 400  # candidates, the last ones: memory grows with their square, time with their cube
DRAWS = 999  # permutations
RIDGES = tuple(10.0**power for power in np.arange(-2, 4.5, 0.5))  # times the mean eigenvalue
DEPTH_PARTS = 4


@dataclass(frozen=True)
class Influence:
    """What is known of one group of genes. `kind`: what the groups are by; `gradient`: its share of the squared
    derivatives where gradients were taken."""

    kind: str
    group: str
    genes: int
    share: float
    error: float
    p: float
    gradient: float | None = None

    @property
    def told(self) -> bool:
        return self.p <= SURE


def influences(
    genes: Sequence[Gene], trials: Sequence[Trial], seed: int, gradients: Sequence[Sequence[float]] = ()
) -> list[Influence]:
    """Of every group, by kind; empty where there are too few candidates or nothing varies.

    `gradients`: derivatives by the genes in the unit cube, one list per step. Candidates of the opening and
    of a climb are left out: they were not drawn.
    """
    used = [trial for trial in trials if trial.point and trial.value is not None and trial.origin in DRAWN]
    if len(used) < FEWEST:
        return []
    used = used[-MOST:]
    generations = np.array([trial.generation for trial in used])
    values = centred(np.array([[trial.value] for trial in used], dtype=np.float64), generations)[:, 0]
    if not values.std() > 0:
        return []
    columns = [gene_columns(gene, np.array([trial.point[place] for trial in used])) for place, gene in enumerate(genes)]
    moved = [scaled(centred(each, generations)) for each in columns]
    slopes = squared_slopes(gradients, len(genes))
    full = left_out_errors(gram_of(moved, range(len(genes))), values)[0]
    result = []
    for kind, groups in partitions(genes).items():
        found = [
            influence(kind, name, places, moved, values, full, generations, seed, slopes)
            for name, places in groups.items()
        ]
        result += holm(found)
    return result


def gram_of(columns: Sequence[Array], places: Iterable[int]) -> Array:
    """The products (n, n) of candidates by the columns of these genes."""
    joined = np.concatenate([np.zeros((len(columns[0]), 0)), *(columns[place] for place in places)], axis=1)
    return np.asarray(joined @ joined.T)


def partitions(genes: Sequence[Gene]) -> dict[str, dict[str, list[int]]]:
    """Kind -> group -> places of its genes; only kinds with several groups."""
    deepest = max((gene.position for gene in genes if gene.position is not None), default=0)
    kinds: dict[str, dict[str, list[int]]] = {"parameter": {}, "depth": {}, "module group": {}}
    for place, gene in enumerate(genes):
        names = {
            "parameter": f"{gene.parameter or gene.name}{gene.model and f' of {gene.model}'}",
            "depth": depth_part(gene, deepest),
            "module group": "whole model" if not gene.group else gene.group,
        }
        for kind, name in names.items():
            kinds[kind].setdefault(name, []).append(place)
    return {kind: groups for kind, groups in kinds.items() if len(groups) > 1}


def depth_part(gene: Gene, deepest: int) -> str:
    """The quarter of the depth that a gene stands in, counted in places, or where else it stands."""
    if gene.position is None:
        return "outside the layers" if gene.group == "outer" else "whole model"
    count = min(DEPTH_PARTS, deepest + 1)
    part = gene.position * count // (deepest + 1)
    first, last = -(-part * (deepest + 1) // count), -(-(part + 1) * (deepest + 1) // count) - 1
    return f"places {first} to {last}" if last > first else f"place {first}"


def gene_columns(gene: Gene, units: Array) -> Array:
    """A gene's values as columns (n, .): one, or one a choice."""
    if not gene.choices:
        return units[:, None]
    taken = [gene.from_unit(unit) for unit in units]
    return np.array([[float(value == choice) for choice in gene.choices] for value in taken])


def centred(columns: Array, generations: npt.NDArray[np.int64]) -> Array:
    """Columns (n, d) less their means within each generation."""
    result: Array = columns.copy()
    for generation in np.unique(generations):
        rows = generations == generation
        result[rows] -= columns[rows].mean(axis=0)
    return result


def scaled(columns: Array) -> Array:
    """With a standard deviation of 1 in all, each; what does not vary stays 0."""
    spread = np.sqrt((columns**2).mean())
    return np.asarray(columns / spread) if spread > 1e-9 else np.zeros_like(columns)


def influence(
    kind: str,
    name: str,
    places: Sequence[int],
    columns: Sequence[Array],
    values: Array,
    full: Array,
    generations: npt.NDArray[np.int64],
    seed: int,
    slopes: Array | None,
) -> Influence:
    """`full`: the left-out errors with all genes."""
    own = gram_of(columns, places)
    reduced = left_out_errors(gram_of(columns, sorted({*range(len(columns))} - {*places})), values)
    gains = (reduced[0] ** 2 - full**2) / values.var()
    return Influence(
        kind,
        name,
        len(places),
        float(gains.mean()),
        float(gains.std(ddof=1) / math.sqrt(len(gains))),
        permuted(own, reduced[1], values, generations, seed),
        None if slopes is None else float(slopes[list(places)].sum()),
    )


def left_out_errors(gram: Array, values: Array) -> tuple[Array, Array]:
    """Of the ridge regression whose left-out errors are least: these errors, and its hat matrix (n, n)."""
    eigenvalues, vectors = np.linalg.eigh(gram)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    errors, best = values, np.zeros_like(eigenvalues)  # no gene explains anything
    turned, squares = vectors.T @ values, vectors**2
    for ridge in RIDGES:
        shrunk = eigenvalues / (eigenvalues + ridge * max(float(eigenvalues.mean()), 1e-12))
        found = (values - vectors @ (shrunk * turned)) / np.maximum(1 - squares @ shrunk, 1e-3)
        if (found**2).sum() < (errors**2).sum():
            errors, best = found, shrunk
    return errors, (vectors * best) @ vectors.T


def permuted(own: Array, hat: Array, values: Array, generations: npt.NDArray[np.int64], seed: int) -> float:
    """The share of permutations within generations of what the other genes leave unexplained that go with the group's
    genes at least as much as the real order does."""
    generator = np.random.default_rng(seed)
    left = values - hat @ values
    drawn = np.tile(left, (DRAWS, 1))
    for generation in np.unique(generations):
        rows = np.flatnonzero(generations == generation)
        drawn[:, rows] = generator.permuted(drawn[:, rows], axis=1)
    chance = ((drawn @ own) * drawn).sum(axis=1)
    return float((1 + (chance >= float(left @ own @ left) - 1e-12).sum()) / (1 + DRAWS))


def holm(found: Sequence[Influence]) -> list[Influence]:
    """With p corrected for their number, in the order given."""
    order = sorted(range(len(found)), key=lambda place: found[place].p)
    corrected, most = dict[int, float](), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, found[place].p * (len(found) - rank)))
        corrected[place] = most
    return [
        Influence(each.kind, each.group, each.genes, each.share, each.error, corrected[place], each.gradient)
        for place, each in enumerate(found)
    ]


def squared_slopes(gradients: Sequence[Sequence[float]], genes: int) -> Array | None:
    """Every gene's share of the squared derivatives, or None where there are none."""
    rows = [gradient for gradient in gradients if len(gradient) == genes]
    sums = (np.array(rows, dtype=np.float64) ** 2).sum(axis=0) if rows else np.zeros(genes)
    return np.asarray(sums / sums.sum()) if sums.sum() > 0 else None


def recorded_gradients(events: Sequence[Mapping[str, object]]) -> list[list[float]]:
    """The derivatives by the genes that the ledger's events hold under "gradient"."""
    found = [event.get("gradient") for event in events]
    return [[float(value) for value in each] for each in found if isinstance(each, list)]
