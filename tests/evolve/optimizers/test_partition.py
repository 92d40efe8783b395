"""Genes part in a fixed order, down to single ones, and no gene is lost on the way."""

from __future__ import annotations

from evolve.optimizers.partition import Group, coarsest, name_of, split
from search_spaces.gene import Gene

PLACES = (("outer", None), *((group, position) for group in ("self_attn", "mlp") for position in range(5)))
GENES = (
    Gene("method", choices=("ties", "linear"), parameter="method"),
    *(
        Gene(f"{parameter}.{model}.{group}.{position}", 0.0, 1.0, (), False, parameter, model, group, position)
        for parameter in ("weight", "density")
        for model in ("a", "b")
        for group, position in PLACES
    ),
    Gene("count", 1, 4, integer=True, parameter="count"),
    Gene("unplaced"),
)


def tree(group: Group) -> list[Group]:
    parts = split(group, GENES)
    return [group] if parts is None else [group, *tree(parts[0]), *tree(parts[1])]


def test_the_coarsest_groups_are_one_per_parameter_and_model() -> None:
    groups = coarsest(GENES)
    assert [len(group) for group in groups] == [1, 11, 11, 11, 11, 1, 1]
    assert sorted(index for group in groups for index in group) == list(range(len(GENES)))


def test_every_gene_ends_by_itself() -> None:
    singles = {group for whole in coarsest(GENES) for group in tree(whole) if len(group) == 1}
    assert singles == {(index,) for index in range(len(GENES))}


def test_outer_tensors_leave_first_then_depth_is_halved_then_modules_part() -> None:
    whole = coarsest(GENES)[1]
    outer, layers = split(whole, GENES) or ((), ())
    assert [GENES[index].group for index in outer] == ["outer"]
    early, late = split(layers, GENES) or ((), ())
    assert {GENES[index].position for index in early} == {0, 1}
    assert {GENES[index].position for index in late} == {2, 3, 4}
    attention, mlp = split(early, GENES) or ((), ())
    assert {GENES[index].group for index in attention} == {"self_attn"}
    assert {GENES[index].group for index in mlp} == {"mlp"}
    assert name_of(mlp, GENES) == "weight.a.mlp.0 ... weight.a.mlp.1"
