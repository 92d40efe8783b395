"""The search space: named genes in the unit cube, the recipe at a point, and the points to try first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from engine.methods import METHODS
from engine.recipe import Recipe
from search_spaces.assemble import Spec, pick_options, recipe_of, recipe_with
from search_spaces.bounds import Fixed, effective
from search_spaces.gene import Gene, Value
from search_spaces.layer_order import edit_deviations, order_starts, usual

Point = tuple[float, ...]

STRENGTHS = (0.1, 0.3, 0.6, 1.0)  # uniform weights tried before the search, beside 1/k
DECIMALS = 4  # of a gene's value in a recipe: readable, and far below what scores can tell apart


@dataclass(frozen=True)
class SearchSpace:
    """`genes` (d of them) span the unit cube; `start` are the points to evaluate first."""

    spec: Spec
    genes: tuple[Gene, ...]
    start: tuple[Point, ...]

    @property
    def deviations(self) -> tuple[float, ...] | None:
        """Standard deviations to begin with, in units of the genes' ranges; None: those of the optimizer."""
        return edit_deviations(self.genes) if self.spec.order else None

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
        return True if gene.parameter == "take" else gene.from_unit(0.5)  # every source asks for its weights

    def collect_picked(picker: str, pick: str, gene: Gene) -> Value:
        value = collect(gene)
        return pick if gene.name == picker else value

    recipe_of(spec, collect)
    for name in () if spec.order else spec.methods:
        # A gene that picks the models decides which weights are asked for: ask for those of every pick.
        for pick in pick_options(METHODS[name], spec.family) or [""]:
            recipe_with(spec, name, partial(collect_picked, f"{name}.models", pick))
    ordered = tuple(genes.values())
    return SearchSpace(spec, ordered, start_points(spec, ordered))


def start_points(spec: Spec, genes: tuple[Gene, ...]) -> tuple[Point, ...]:
    """Every method with all sources at uniform weights of 1/k and of `STRENGTHS`; other genes in the middle. Of the
    order of layers: every model's own, and each with plausible edits."""
    points: dict[Point, None] = {}
    for changes in order_starts(spec.order, spec.family, spec.labels) if spec.order else ():
        points[tuple(gene.to_unit(changes.get(gene.name, usual(gene))) for gene in genes)] = None
    for name in () if spec.order else spec.methods:
        for strength in (1 / len(spec.family.sources), *STRENGTHS):
            points[tuple(start_value(spec, gene, name, strength) for gene in genes)] = None
    return tuple(points)


def start_value(spec: Spec, gene: Gene, method: str, strength: float) -> float:
    if gene.parameter == "method":
        return gene.to_unit(method)
    if gene.parameter == "take":
        return gene.to_unit(True)
    if gene.name == "scale":  # where weights are divided by their sum, it alone makes the merge weak or strong
        return gene.to_unit(strength * len(spec.family.sources) if normalizes(spec, method) else 1.0)
    if gene.parameter != "weight" or gene.choices:
        return 0.5
    # Where weights are divided by their sum, their strength says nothing.
    return gene.to_unit(1 / len(spec.family.sources) if normalizes(spec, method) else strength)


def normalizes(spec: Spec, name: str) -> bool:
    """Whether the method divides by the sum of the weights, as far as that is known before a point is."""
    row = next((row for row in METHODS[name].parameters if row.name == "normalize"), None)
    bounds = effective(row, spec.bounds) if row else Fixed(False)
    return bool(row and (bounds.value if isinstance(bounds, Fixed) and bounds.value is not None else row.default))
