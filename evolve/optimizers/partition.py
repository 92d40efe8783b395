"""Which genes move together: partitions of the genes, from one group per parameter and model down to single genes."""

from __future__ import annotations

from search_spaces.gene import Gene

Group = tuple[int, ...]  # indices of genes, in their order


def coarsest(genes: tuple[Gene, ...]) -> list[Group]:
    """One group per parameter, model and method; choices, whole numbers and genes of no known place by themselves."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, gene in enumerate(genes):
        alone = bool(gene.choices) or gene.integer or not gene.parameter
        key = ("alone", str(index)) if alone else (gene.method, gene.parameter, gene.model)
        groups.setdefault(key, []).append(index)
    return [tuple(group) for group in groups.values()]


def split(group: Group, genes: tuple[Gene, ...]) -> tuple[Group, Group] | None:
    """The two parts of a group; None for one that has nothing to be told apart by.

    Tensors outside of the layers leave first, then the whole depth is halved; then module groups part, and the halves
    are halved again.
    """
    depth = {gene.position for gene in genes if gene.position is not None}
    whole = depth == {genes[index].position for index in group}
    cuts = [outer_first, early_first, module_first] if whole else [outer_first, module_first, early_first]
    for cut in cuts:
        first = cut(group, genes)
        if 0 < len(first) < len(group):
            return first, tuple(index for index in group if index not in first)
    return None


def outer_first(group: Group, genes: tuple[Gene, ...]) -> Group:
    return tuple(index for index in group if genes[index].position is None)


def module_first(group: Group, genes: tuple[Gene, ...]) -> Group:
    return tuple(index for index in group if genes[index].group == genes[group[0]].group)


def early_first(group: Group, genes: tuple[Gene, ...]) -> Group:
    """The first half of the places over depth that the group has."""
    places = sorted({position for position in (genes[index].position for index in group) if position is not None})
    early = set(places[: len(places) // 2])
    return tuple(index for index in group if genes[index].position in early)


def name_of(group: Group, genes: tuple[Gene, ...]) -> str:
    """A group by its first and last gene."""
    first, last = genes[group[0]].name, genes[group[-1]].name
    return first if first == last else f"{first} ... {last}"
