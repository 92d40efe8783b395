"""From what a loss says of every tensor's weights to what it says of the genes.

In every layout a tensor's weight is a linear function of the genes: one gene's value, or the mean of two knots. The
coefficients are not derived from the layouts but read off recipes, so that no layout needs to know of this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from engine.checkpoint import Checkpoint
from engine.derivative import WEIGHTS
from engine.plan import plan
from engine.recipe import Recipe
from search_spaces.assemble import recipe_of
from search_spaces.gene import Gene, Value
from search_spaces.space import Point, SearchSpace

Place: TypeAlias = "tuple[str, str, int]"
"""A number of a plan: tensor, parameter, and which of its inputs (0 for a shared parameter)."""
Numbers: TypeAlias = "dict[Place, float]"
Slopes: TypeAlias = "Mapping[str, Mapping[str, Sequence[float]]]"
CLOSE = 1e-6


def has_slope(gene: Gene) -> bool:
    """Whether the gene is a weight."""
    return gene.parameter in WEIGHTS and not gene.choices and not gene.integer


class Sensitivity:
    """The genes' coefficients in every tensor's weights, found once for every choice of methods and models."""

    def __init__(self, space: SearchSpace, checkpoints: Mapping[str, Checkpoint]) -> None:
        self._space, self._checkpoints = space, checkpoints
        self._weights = [index for index, gene in enumerate(space.genes) if has_slope(gene)]
        self._found: dict[tuple[Value, ...], dict[Place, dict[int, float]]] = {}

    def gradient(self, point: Point, by: Slopes) -> tuple[float, ...]:
        """The derivative of a value by every gene in units of its range; 0 for genes that are no weights.

        `by`: tensor -> parameter -> the value's derivative for each input, at the recipe of `point`.
        """
        coefficients = self._at(point)
        total = [0.0] * len(self._space.genes)
        for name, parameters in by.items():
            for parameter, slopes in parameters.items():
                for place, slope in enumerate(slopes):
                    for index, share in coefficients.get((name, parameter, place), {}).items():
                        total[index] += slope * share
        widths = (gene.high - gene.low for gene in self._space.genes)
        return tuple(slope * width for slope, width in zip(total, widths, strict=True))

    def _at(self, point: Point) -> dict[Place, dict[int, float]]:
        named = self._space.named(point)
        chosen = tuple(named[gene.name] for gene in self._space.genes if gene.choices)
        if chosen not in self._found:
            self._found[chosen] = self._read(named)
        return self._found[chosen]

    def _read(self, named: Mapping[str, Value]) -> dict[Place, dict[int, float]]:
        """What each number of the plan takes of each gene, with all genes that are no weights as they are."""

        def numbers(values: Mapping[int, float]) -> Numbers:
            given = {**named, **{self._space.genes[i].name: values.get(i, 0.0) for i in self._weights}}
            return self._numbers(lambda gene: given[gene.name])

        found = by_position(self._space.genes, self._weights, numbers)
        return found if agrees(found, self._weights, numbers) else one_by_one(self._weights, numbers)

    def _numbers(self, value_of: Callable[[Gene], Value]) -> Numbers:
        made = plan(Recipe.model_validate(recipe_of(self._space.spec, value_of)), self._checkpoints)
        result: Numbers = {}
        for job in made.jobs:
            for parameter in WEIGHTS:
                value = job.parameters.get(parameter)
                for place, number in enumerate(value if isinstance(value, tuple) else (value,)):
                    if number is not None:
                        result[job.name, parameter, place] = float(number)
        return result


def by_position(
    genes: Sequence[Gene], weights: Sequence[int], numbers: Callable[[Mapping[int, float]], Numbers]
) -> dict[Place, dict[int, float]]:
    """The coefficients where no number takes of two genes at one place over depth: two plans for each place.

    With all genes of a place at 1 a number shows its coefficient, with the j-th of them at j it shows its j as well.
    """
    groups: dict[int | None, list[int]] = defaultdict(list)
    for index in weights:
        groups[genes[index].position].append(index)
    none = numbers({})
    found: dict[Place, dict[int, float]] = defaultdict(dict)
    for group in groups.values():
        ones = numbers(dict.fromkeys(group, 1.0))
        counted = numbers({index: float(count) for count, index in enumerate(group, 1)})
        for place, zero in none.items():
            share = ones[place] - zero
            if share:
                count = round((counted[place] - zero) / share)
                found[place][group[min(max(count, 1), len(group)) - 1]] = share
    return dict(found)


def agrees(
    found: Mapping[Place, Mapping[int, float]],
    weights: Sequence[int],
    numbers: Callable[[Mapping[int, float]], Numbers],
) -> bool:
    """Whether the coefficients tell what a plan holds whose genes have values of no pattern."""
    values = {index: (0.6180339887 * count) % 1.0 for count, index in enumerate(weights, 1)}
    none, there = numbers({}), numbers(values)
    return all(
        abs(none[place] + sum(values[i] * share for i, share in found.get(place, {}).items()) - number) < CLOSE
        for place, number in there.items()
    )


def one_by_one(
    weights: Sequence[int], numbers: Callable[[Mapping[int, float]], Numbers]
) -> dict[Place, dict[int, float]]:
    """The coefficients of any linear map: one plan a gene."""
    none = numbers({})
    found: dict[Place, dict[int, float]] = defaultdict(dict)
    for index in weights:
        for place, number in numbers({index: 1.0}).items():
            if number != none[place]:
                found[place][index] = number - none[place]
    return dict(found)
