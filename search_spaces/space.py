"""The search space: named genes in the unit cube, the recipe at a point, and the points to try first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from engine.methods import METHODS
from engine.recipe import Recipe
from search_spaces.assemble import Spec, pick_options, recipe_of, recipe_with
from search_spaces.gene import Gene, Value

Point = tuple[float, ...]

STRENGTHS = (0.3, 0.6, 1.0)  # uniform weights tried before the search, beside 1/k
DECIMALS = 4  # of a gene's value in a recipe: readable, and far below what scores can tell apart


@dataclass(frozen=True)
class SearchSpace:
    """`genes` (d of them) span the unit cube; `start` are the points to evaluate first."""

    spec: Spec
    genes: tuple[Gene, ...]
    start: tuple[Point, ...]

    def named(self, point: Sequence[float]) -> dict[str, Value]:
        """The genes' values at `point`, d numbers in [0, 1]; continuous ones rounded as recipes have them."""
        values: dict[str, Value] = {}
        for gene, unit in zip(self.genes, point, strict=True):
            value = gene.from_unit(unit)
            values[gene.name] = value if gene.choices or gene.integer else rounded(gene, float(value))
        return values

    def decode(self, point: Sequence[float]) -> Recipe:
        """The recipe at `point`. Points that lead to one recipe give equal digests."""
        values = self.named(point)
        return Recipe.model_validate(recipe_of(self.spec, lambda gene: values[gene.name]))


def rounded(gene: Gene, value: float) -> float:
    """To `DECIMALS`, but never beyond the gene's bounds, which may have more (1/3)."""
    return min(max(round(value, DECIMALS), gene.low), gene.high)


def search_space(spec: Spec) -> SearchSpace:
    """The space that `spec` spans: the genes that any of its methods asks for, in the order of asking."""
    genes: dict[str, Gene] = {}

    def collect(gene: Gene) -> Value:
        genes.setdefault(gene.name, gene)
        return gene.from_unit(0.5)

    def collect_picked(picker: str, pick: str, gene: Gene) -> Value:
        value = collect(gene)
        return pick if gene.name == picker else value

    recipe_of(spec, collect)
    for name in spec.methods:
        # A gene that picks the models decides which weights are asked for: ask for those of every pick.
        for pick in pick_options(METHODS[name], spec.family) or [""]:
            recipe_with(spec, name, partial(collect_picked, f"{name}.models", pick))
    ordered = tuple(genes.values())
    return SearchSpace(spec, ordered, start_points(spec, ordered))


def start_points(spec: Spec, genes: tuple[Gene, ...]) -> tuple[Point, ...]:
    """Every method at uniform weights of 1/k and of `STRENGTHS`; other genes in the middle of their range."""
    points: dict[Point, None] = {}
    for name in spec.methods:
        for strength in (1 / len(spec.family.sources), *STRENGTHS):
            points[tuple(start_value(gene, name, strength) for gene in genes)] = None
    return tuple(points)


def start_value(gene: Gene, method: str, strength: float) -> float:
    if gene.name == "method":
        return gene.to_unit(method)
    is_weight = "weight" in gene.name.split(".")[:2] and not gene.choices
    return gene.to_unit(strength) if is_weight else 0.5
