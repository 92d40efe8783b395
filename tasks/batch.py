"""A pass as tensors: token ids, positions, the mask, and where its answers stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tasks.passes import Pass, Row
from tasks.tree import Tree


@dataclass(frozen=True)
class Target:
    """A token whose log-probability is wanted: `token` after the `offset`-th token of `node`, as answer `place`."""

    node: int
    offset: int
    token: int
    place: int


@dataclass(frozen=True)
class Endings:
    """The sequences that end in a batch and are to be continued: where their keys and values are, once it has run.

    By sequence: its number in `sequences`; after the trunk, the positions `inside` ([sequences, longest], filled up
    with 0) of the row `rows`, as many as `lengths` says; its last token as an entry of `Batch.hidden` in `hidden`.
    """

    sequences: tuple[int, ...]
    rows: torch.Tensor
    inside: torch.Tensor
    lengths: tuple[int, ...]
    hidden: torch.Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass.

    `tokens`, `positions`: [rows, length], padded on the right. `allowed`: [rows, length, length], whether a token
    attends to another of its row (to the trunk it always does); None where every row is one sequence. `hidden`: flat
    indices into [rows * length] of the hidden states that the head sees. `of`, `token`, `place`: by wanted answer, the
    entry of `hidden`, the token and the number of the answer.
    """

    trunk: tuple[int, ...]
    tokens: torch.Tensor
    positions: torch.Tensor
    allowed: torch.Tensor | None
    lengths: tuple[int, ...]
    kept: tuple[tuple[int, int], ...]  # stem -> row
    drop: tuple[int, ...]
    hidden: torch.Tensor
    of: torch.Tensor
    token: torch.Tensor
    place: torch.Tensor
    endings: Endings | None


def batches_of(
    tree: Tree, passes: Sequence[Pass], targets: Sequence[Target], ending: Mapping[int, int], device: torch.device
) -> tuple[Batch, ...]:
    """The passes as tensors on a device. `ending`: node -> sequence to be continued after it.

    A node that several rows carry answers in the first of them.
    """
    wanted: dict[int, list[Target]] = {}
    for target in targets:
        wanted.setdefault(target.node, []).append(target)
    continued = dict(ending)
    return tuple(_batch(tree, each, wanted, continued, device) for each in passes)


def _batch(
    tree: Tree, each: Pass, wanted: dict[int, list[Target]], continued: dict[int, int], device: torch.device
) -> Batch:
    lengths = tuple(sum(len(tree.tokens[node]) for node in row.nodes) for row in each.rows)
    shape = (len(each.rows), max(lengths))
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    hidden: dict[int, int] = {}
    answers: list[tuple[int, int, int]] = []
    endings: list[tuple[int, int, list[int], int]] = []
    for number, row in enumerate(each.rows):
        place, first = 0, {}
        for node in row.nodes:
            ids = tree.tokens[node]
            first[node] = place
            tokens[number, place : place + len(ids)] = ids
            positions[number, place : place + len(ids)] = np.arange(tree.start[node], tree.start[node] + len(ids))
            for target in wanted.pop(node, ()):
                at = number * shape[1] + place + target.offset
                answers.append((hidden.setdefault(at, len(hidden)), target.token, target.place))
            if node in continued:
                at = number * shape[1] + place + len(ids) - 1
                inside = [first[above] + step for above in tree.path(node) if above in first
                          for step in range(len(tree.tokens[above]))]  # fmt: skip
                endings.append((continued.pop(node), number, inside, hidden.setdefault(at, len(hidden))))
            place += len(ids)
    columns = list(zip(*answers, strict=True)) or [(), (), ()]
    of, token, place_of = (torch.tensor(column, dtype=torch.long, device=device) for column in columns)
    return Batch(
        trunk=each.trunk,
        tokens=torch.from_numpy(tokens).to(device),
        positions=torch.from_numpy(positions).to(device),
        allowed=None if _plain(tree, each) else _allowed(tree, each.rows, shape).to(device),
        lengths=lengths,
        kept=tuple((row.nodes[-1], number) for number, row in enumerate(each.rows)) if each.keep else (),
        drop=each.drop,
        hidden=torch.tensor(list(hidden) or [0], device=device),
        of=of,
        token=token,
        place=place_of,
        endings=_endings(endings, device) if endings else None,
    )


def _endings(endings: Sequence[tuple[int, int, list[int], int]], device: torch.device) -> Endings:
    longest = max(len(inside) for _, _, inside, _ in endings)
    return Endings(
        sequences=tuple(sequence for sequence, _, _, _ in endings),
        rows=torch.tensor([row for _, row, _, _ in endings], device=device),
        inside=torch.tensor([inside + [0] * (longest - len(inside)) for _, _, inside, _ in endings], device=device),
        lengths=tuple(len(inside) for _, _, inside, _ in endings),
        hidden=torch.tensor([hidden for _, _, _, hidden in endings], device=device),
    )


def _plain(tree: Tree, each: Pass) -> bool:
    """Whether every row is one sequence from its first token: then the model's own causal mask is right."""
    chains = all(
        tree.parent[lower] == upper for row in each.rows for upper, lower in zip(row.nodes, row.nodes[1:], strict=False)
    )
    return chains and not each.trunk


def _allowed(tree: Tree, rows: Sequence[Row], shape: tuple[int, int]) -> torch.Tensor:
    """[rows, length, length]: a token sees those before it in its own node and in the nodes above. Padding sees
    itself, so that no softmax is empty."""
    allowed = np.zeros((*shape, shape[1]), bool)
    before = np.tri(shape[1], dtype=bool)
    for number, row in enumerate(rows):
        index = {node: place for place, node in enumerate(row.nodes)}
        above = np.zeros((len(index) + 1, len(index) + 1), bool)
        for node, place in index.items():
            if tree.parent[node] in index:
                above[place] = above[index[tree.parent[node]]]
            above[place, place] = True
        owner = np.full(shape[1], len(index))
        owner[: sum(len(tree.tokens[node]) for node in row.nodes)] = np.repeat(
            np.arange(len(index)), [len(tree.tokens[node]) for node in row.nodes]
        )
        allowed[number] = above[owner[:, None], owner[None, :]] & before
        np.fill_diagonal(allowed[number], True)
    return torch.from_numpy(allowed)
