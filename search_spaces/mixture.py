"""Where in a space a plain mixture of the models lies: one weight for each model, the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping

from engine.methods import METHODS
from search_spaces.assemble import labels
from search_spaces.gene import Gene
from search_spaces.space import Point, SearchSpace, normalizes, start_value


def mixture_point(space: SearchSpace, weights: Mapping[str, float]) -> Point | None:
    """The point at which every model of the family has its weight in `weights`, 0 where it is not named; nothing is
    sparsified. None where no method of the space weighs all sources.

    Where a weight lies beyond a gene's bounds, it is the nearest point.
    """
    weighing = [name for name in space.spec.methods if not space.spec.order and weighs(name)]
    if not weighing:
        return None
    given = {labels(space.spec.family.models)[model]: weight for model, weight in weights.items()}

    def unit(gene: Gene) -> float:
        if gene.parameter == "weight" and not gene.choices:
            return gene.to_unit(given.get(gene.model, 0.0))
        if gene.parameter == "take":
            return gene.to_unit(bool(given.get(gene.model)) or not any(given.values()))
        if gene.parameter == "density" and not gene.choices:
            return 1.0
        if gene.name == "scale":  # weights that are divided by their sum get it back
            return gene.to_unit(sum(given.values()) if normalizes(space.spec, weighing[0]) else 1.0)
        return start_value(space.spec, gene, weighing[0], 1.0)

    return tuple(unit(gene) for gene in space.genes)


def weighs(name: str) -> bool:
    """Whether a method takes any number of models, each with a weight."""
    method = METHODS[name]
    return method.inputs[1] is None and any(row.name == "weight" for row in method.parameters)
