"""Sequences of tokens as a tree: what several of them begin with stands in it once (a radix tree).

A causal model gives a token the same hidden state wherever the tokens before it are the same, so every node needs
to be evaluated once, for all sequences that pass through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Nodes are numbered parents first; node 0 is the root, which has no tokens.

    By node: `tokens`, `parent`, `children`, and `start`, the position of its first token. `ends`: by sequence, the
    node with whose last token it ends.
    """

    tokens: tuple[Tokens, ...]
    parent: tuple[int, ...]
    children: tuple[tuple[int, ...], ...]
    start: tuple[int, ...]
    ends: tuple[int, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """By node: the tokens of itself and of all below it."""
        sizes = [len(tokens) for tokens in self.tokens]
        for node in range(len(sizes) - 1, 0, -1):
            sizes[self.parent[node]] += sizes[node]
        return tuple(sizes)

    def below(self, node: int) -> Iterator[int]:
        """The node and all below it, parents first."""
        waiting = [node]
        while waiting:
            each = waiting.pop()
            yield each
            waiting.extend(reversed(self.children[each]))

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from below the root down to `node`."""
        nodes = []
        while node:
            nodes.append(node)
            node = self.parent[node]
        return tuple(reversed(nodes))


def separate(sequences: Sequence[Tokens]) -> Tree:
    """A tree in which nothing is shared: one node a sequence."""
    nodes = tuple(range(1, len(sequences) + 1))
    return Tree(
        ((), *sequences), (0,) * (len(sequences) + 1), (nodes, *(() for _ in nodes)), (0,) * (len(sequences) + 1), nodes
    )


@dataclass
class Draft:
    """A node while the tree is built: how many tokens lead to its end, a sequence through it, what is below it."""

    depth: int
    sequence: int
    children: list[Draft] = field(default_factory=list)
    ending: list[int] = field(default_factory=list)


def token_tree(sequences: Sequence[Tokens], *, longest: int) -> Tree:
    """The tree of the sequences, none of them empty; a stretch of more than `longest` tokens becomes a chain of nodes.

    Sequences are taken in sorted order, in which neighbours share the most; the nodes down to the last one wait on a
    stack until a sequence leaves them (the way a suffix tree is made from longest common prefixes).
    """
    root = Draft(0, -1)
    branch = [root]
    last = np.empty(0, np.int64)
    for index in sorted(range(len(sequences)), key=lambda each: sequences[each]):
        ids = np.array(sequences[index], np.int64)
        shared = shared_length(last, ids)
        while branch[-1].depth > shared:
            leave(branch, shared)
        if branch[-1].depth < ids.size:
            branch.append(Draft(ids.size, index))
        branch[-1].ending.append(index)
        last = ids
    while len(branch) > 1:
        leave(branch, 0)
    return numbered(root, sequences, longest)


def leave(branch: list[Draft], shared: int) -> None:
    """Hang the branch's last node below the one before it, or below a new one that ends after `shared` tokens."""
    node = branch.pop()
    if branch[-1].depth < shared:
        branch.append(Draft(shared, node.sequence))
    branch[-1].children.append(node)


def shared_length(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two sequences begin with in common."""
    size = min(first.size, second.size)
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if different.size else size


def numbered(root: Draft, sequences: Sequence[Tokens], longest: int) -> Tree:
    tokens: list[Tokens] = [()]
    parent, start = [0], [0]
    children: list[list[int]] = [[]]
    ends = [0] * len(sequences)
    waiting = [(child, 0, 0) for child in reversed(root.children)]
    while waiting:
        draft, above, depth = waiting.pop()
        for place in range(depth, draft.depth, longest):
            children[above].append(len(tokens))
            parent.append(above)
            above = len(tokens)
            tokens.append(sequences[draft.sequence][place : min(place + longest, draft.depth)])
            start.append(place)
            children.append([])
        for sequence in draft.ending:
            ends[sequence] = above
        waiting += [(child, above, draft.depth) for child in reversed(draft.children)]
    return Tree(tuple(tokens), tuple(parent), tuple(map(tuple, children)), tuple(start), tuple(ends))
