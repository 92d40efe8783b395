"""The token tree: every sequence is a path, what is shared stands in it once, and the passes cover it."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.batch import Target, batches_of
from tasks.passes import CARRIED, Pass, plain_passes, plan_passes
from tasks.tree import Tree, separate, token_tree

SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=40).map(tuple), min_size=1, max_size=40
)  # three tokens: much is shared
LONG = st.tuples(st.integers(1, 400), SEQUENCES).map(lambda drawn: [(7,) * drawn[0] + ids for ids in drawn[1]])


def words(tree: Tree, node: int) -> tuple[int, ...]:
    return tuple(token for each in tree.path(node) for token in tree.tokens[each])


@given(SEQUENCES, st.integers(1, 50))
def test_every_sequence_is_a_path_and_no_prefix_stands_twice(sequences: list[tuple[int, ...]], longest: int) -> None:
    tree = token_tree(sequences, longest=longest)
    assert [words(tree, end) for end in tree.ends] == sequences
    assert all(0 < len(tokens) <= longest for tokens in tree.tokens[1:])
    assert all(parent < node for node, parent in enumerate(tree.parent) if node)
    assert tree.start[1:] == tuple(len(words(tree, tree.parent[node])) for node in range(1, len(tree.tokens)))
    for node in range(len(tree.tokens)):
        first = [tree.tokens[child][0] for child in tree.children[node]]
        assert len(set(first)) == len(first)
    prefixes = {ids[:size] for ids in sequences for size in range(1, len(ids) + 1)}
    assert tree.sizes[0] == len(prefixes)
    assert list(tree.below(0)) == sorted(range(len(tree.tokens)))


def check_passes(tree: Tree, passes: tuple[Pass, ...], limit: int) -> None:
    """Every node is evaluated, after all that is above it, which stands in its row or its trunk; nothing is too big."""
    kept: dict[int, tuple[int, ...]] = {0: ()}
    seen = set()
    for each in passes:
        lengths = [sum(len(tree.tokens[node]) for node in row.nodes) for row in each.rows]
        assert max(lengths) * len(each.rows) <= limit + CARRIED * len(each.rows)
        above = tuple(node for stem in each.trunk for node in kept[stem])
        assert all(stem in kept for stem in each.trunk)
        for row in each.rows:
            for place, node in enumerate(row.nodes):
                assert tree.path(node)[:-1] == tree.path(tree.parent[node])
                assert tree.parent[node] in (0, *above, *row.nodes[:place])
            seen.update(row.nodes)
            assert len(set(row.nodes)) == len(row.nodes)
            if each.keep:
                assert (*above, *row.nodes) == tree.path(row.nodes[-1])
                kept[row.nodes[-1]] = row.nodes
        for stem in each.drop:
            del kept[stem]
    assert seen == set(range(1, len(tree.tokens)))


@given(st.one_of(SEQUENCES, LONG), st.sampled_from([32, 64, 300, 2000]))
@settings(deadline=None)
def test_passes_cover_the_tree(sequences: list[tuple[int, ...]], limit: int) -> None:
    tree = token_tree(sequences, longest=limit)
    check_passes(tree, plan_passes(tree, limit=limit), limit)
    apart = separate(list(dict.fromkeys(sequences)))
    check_passes(apart, plain_passes(apart, limit=max(limit, 500), together=500), max(limit, 500))


def test_a_long_shared_stretch_is_a_stem_and_a_short_one_is_carried() -> None:
    documents = [(place, *[9] * 99) for place in range(100)]
    long = token_tree([(500,) * 300 + document for document in documents], longest=2048)
    first, *others = plan_passes(long, limit=2048)
    assert first.keep
    assert len(others) <= 6
    assert all(each.trunk for each in others)
    short = token_tree([(500, *document) for document in documents], longest=2048)
    assert not any(each.trunk or each.keep for each in plan_passes(short, limit=2048))


def test_rows_are_filled_and_passes_hardly_padded() -> None:
    documents = [(place, *[9] * (10 + place % 50)) for place in range(300)]
    tree = token_tree(documents, longest=2048)
    padded = sum(
        len(each.rows) * max(sum(len(tree.tokens[node]) for node in row.nodes) for row in each.rows)
        for each in plan_passes(tree, limit=2048)
    )
    assert padded <= 1.05 * tree.sizes[0]


@given(SEQUENCES)
@settings(deadline=None)
def test_a_token_attends_to_what_is_before_it_in_its_sequence_and_to_nothing_else(
    sequences: list[tuple[int, ...]],
) -> None:
    tree = token_tree(sequences, longest=16)
    targets = [Target(node, len(tree.tokens[node]) - 1, 0, node - 1) for node in range(1, len(tree.tokens))]
    passes = plan_passes(tree, limit=64)
    answered = []
    for each, batch in zip(passes, batches_of(tree, passes, targets, {}, torch.device("cpu")), strict=True):
        answered += batch.place.tolist()
        for number, row in enumerate(each.rows):
            owner = [node for node in row.nodes for _ in tree.tokens[node]]
            starts = dict(
                zip(row.nodes, accumulate((len(tree.tokens[node]) for node in row.nodes), initial=0), strict=False)
            )
            for place, node in enumerate(owner):
                offset = place - starts[node]
                position = tree.start[node] + offset
                assert batch.tokens[number, place] == tree.tokens[node][offset]
                assert batch.positions[number, place] == position
                allowed = (
                    torch.ones(len(owner), dtype=torch.bool).cumsum(0) <= place + 1
                    if batch.allowed is None
                    else batch.allowed[number, place]
                )
                before = {above for above in tree.path(node) if above in starts}
                expected = [other in before and (other != node or at <= place) for at, other in enumerate(owner)]
                assert allowed[: len(owner)].tolist() == expected
                inside = sum(expected)
                assert inside + sum(len(tree.tokens[up]) for up in tree.path(node) if up not in starts) == position + 1
    assert sorted(answered) == list(range(len(tree.tokens) - 1))
