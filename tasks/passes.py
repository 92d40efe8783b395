"""A token tree as forward passes: which tokens go through the model together, and what they attend to.

A *row* of a pass is a piece of the tree: nodes one behind the other, parents first, in which a token attends to the
nodes above it and to what stands before it in its own. Many short documents fill one row, so nothing is padded, and
the choices of a document stand behind its context once. Attention inside a row is dense, so what branches off in a
row is kept to some hundred tokens; a stretch shared by more than that (a task's few-shot examples, a chat's
preamble) is a *stem*: evaluated first, its keys and values kept, as the *trunk* that the rows below it attend to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from tasks.tree import Tree

WIDTH = 128  # tokens up to which documents are put in one row: their attention to each other is masked, so wasted
BRANCHING = 512  # tokens that may branch off from one stretch in a row; more, and it becomes a stem
WORTH = 64  # tokens that a stem must save: about what an extra pass costs
PART = 0.05  # of the tokens below it, likewise: what it costs to join its keys to those of every pass
CARRIED = 32  # tokens of shared stretches not worth a stem that rows may begin with

Nodes = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """`nodes` parents first; the first `copied` of them are evaluated in other rows too."""

    nodes: Nodes
    copied: int = 0


@dataclass(frozen=True)
class Pass:
    """Rows below one trunk. `trunk`: the last nodes of its stems, from the top. `keep`: the rows are stems, whose keys
    and values later passes need under their last nodes. `drop`: stems that no later pass needs."""

    trunk: Nodes
    rows: tuple[Row, ...]
    keep: bool = False
    drop: Nodes = ()


def plan_passes(tree: Tree, *, limit: int, worth: int = WORTH) -> tuple[Pass, ...]:
    """The passes that evaluate every node of the tree, in an order in which trunks come before what needs them.

    No pass has more than `limit` tokens, padding included, up to CARRIED: `limit` is the `longest` of the tree.
    `worth`: the tokens of padding that a pass is worth.
    """
    passes = list(Planner(tree, limit, worth).below_trunk((), 0))
    last = {node: number for number, each in enumerate(passes) for node in each.trunk}
    return tuple(
        Pass(each.trunk, each.rows, each.keep, tuple(node for node in each.trunk if last[node] == number))
        for number, each in enumerate(passes)
    )


def plain_passes(tree: Tree, *, limit: int, together: int, worth: int = WORTH) -> tuple[Pass, ...]:
    """Passes for a tree of separate sequences: one a row, rows of like lengths together, those of more than `together`
    tokens alone."""
    rows = [Row((node,)) for node in tree.children[0]]
    short = [row for row in rows if len(tree.tokens[row.nodes[0]]) <= together]
    long = [row for row in rows if len(tree.tokens[row.nodes[0]]) > together]
    return tuple(Pass((), batch) for batch in (*Planner(tree, limit, worth).batches(short), *((row,) for row in long)))


@dataclass(frozen=True)
class Planner:
    tree: Tree
    limit: int
    worth: int = WORTH

    def below_trunk(self, trunk: Nodes, node: int) -> Iterator[Pass]:
        """The passes for everything below `node`, whose path is in the trunk."""
        rows, stems = self.below(node, ())
        for batch in self.batches(rows):
            yield Pass(trunk, batch)
        for batch in self.batches(stems):
            yield Pass(trunk, batch, keep=True)
            for stem in batch:
                yield from self.below_trunk((*trunk, stem.nodes[-1]), stem.nodes[-1])

    def below(self, node: int, carried: Nodes) -> tuple[list[Row], list[Row]]:
        """Rows and stems for everything below `node`; `carried` is the path to it that is not in the trunk."""
        small = [child for child in self.tree.children[node] if self.fits(child, carried)]
        rows = self.packed(small, carried)
        stems: list[Row] = []
        for child in self.tree.children[node]:
            if not self.fits(child, carried):
                path = (*carried, child)
                if not self.tree.children[child]:
                    rows.append(Row(path, len(carried)))
                elif self.tokens(path) <= CARRIED and self.saved(child) < max(WORTH, PART * self.tree.sizes[child]):
                    more, further = self.below(child, path)
                    # The child itself is evaluated by the first row that carries it.
                    rows, stems = rows + more, stems + further
                else:
                    stems.append(Row(path, len(carried)))
        return rows, stems

    def fits(self, node: int, carried: Nodes) -> bool:
        """Whether the node and all below it can stand in one row."""
        size = self.tree.sizes[node]
        return size - len(self.tree.tokens[node]) <= BRANCHING and size + self.tokens(carried) <= self.limit

    def saved(self, node: int) -> int:
        """Tokens that the node as a stem saves against rows that all begin with it."""
        children = self.tree.children[node]
        small = [child for child in children if self.fits(child, ())]
        return (len(self.packed(small, ())) + len(children) - len(small) - 1) * len(self.tree.tokens[node])

    def packed(self, nodes: Sequence[int], carried: Nodes) -> list[Row]:
        """Rows of whole subtrees of about WIDTH tokens, as equal as can be, since a pass pads to its longest row."""
        sizes = self.tree.sizes
        room = max(self.limit - self.tokens(carried), 1)
        count = -(-sum(sizes[node] for node in nodes) // min(WIDTH, room))
        while True:
            held: list[list[int]] = [[] for _ in range(count)]
            fill = [(0, place) for place in range(count)]
            for node in sorted(nodes, key=lambda each: -sizes[each]):  # the largest first, into the emptiest row
                used, place = heappop(fill)
                held[place].append(node)
                heappush(fill, (used + sizes[node], place))
            if not fill or max(fill)[0] <= room:
                break
            count += 1
        return [
            Row((*carried, *(below for node in row for below in self.tree.below(node))), len(carried))
            for row in held
            if row
        ]

    def batches(self, rows: Sequence[Row]) -> Iterator[tuple[Row, ...]]:
        """Rows of like lengths together, at most `limit` tokens with padding: the cut of the sorted rows in which
        padding and passes, each of them `worth` tokens, cost least (dynamic programming over the cuts)."""
        ordered = sorted(rows, key=lambda each: -self.tokens(each.nodes))
        lengths = [self.tokens(row.nodes) for row in ordered]
        cost, cut = [0.0], [0]  # of the first rows; where their last pass begins
        for stop in range(1, len(ordered) + 1):
            best, place = float("inf"), stop - 1
            for start in range(stop - 1, -1, -1):
                padded = lengths[start] * (stop - start)
                if padded > self.limit and start < stop - 1:
                    break
                if cost[start] + padded + self.worth < best:
                    best, place = cost[start] + padded + self.worth, start
            cost.append(best)
            cut.append(place)
        passes = []
        stop = len(ordered)
        while stop:
            passes.append(tuple(ordered[cut[stop] : stop]))
            stop = cut[stop]
        yield from reversed(passes)

    def tokens(self, nodes: Nodes) -> int:
        return sum(len(self.tree.tokens[node]) for node in nodes)
