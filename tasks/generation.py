"""Greedy text, as `HFLM.generate_until` writes it: prompts evaluated once where they are alike, and every sequence
leaves the batch when it has met its stop string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tasks.batch import Batch, batches_of
from tasks.continuing import Continuing
from tasks.errors import NotFinite
from tasks.forward import Answers, Forward, KeysValues
from tasks.memory import Allowance
from tasks.passes import plan_passes
from tasks.stopping import Stopping
from tasks.tree import Tokens, token_tree

PROMPTS = 8  # times the tokens of a pass: how many tokens of prompts and answers are generated from at once
LEAVE = 0.9  # the part of the batch still at work below which the others are let go


@dataclass(frozen=True)
class Prompt:
    """`ids`: the tokens to go on from, already cut; `new`: how many may be made; `stops`: texts that end it."""

    ids: Tokens
    new: int
    stops: tuple[str, ...]


class Generation:
    """What is to be continued, planned once for one model after another."""

    def __init__(self, prompts: Sequence[Prompt], stopping: Stopping) -> None:
        self._prompts, self._stopping = prompts, stopping
        self._plans: dict[tuple[int, ...], tuple[int, tuple[Batch, ...]]] = {}

    def ask(self, forward: Forward, allowance: Allowance) -> list[list[int]]:
        """The new tokens of every prompt. Raises NotFinite for NaN logits, MemoryError when nothing fits."""
        made: dict[int, list[int]] = {}
        same: dict[Prompt, int] = {}  # equal prompts have equal answers
        for index, prompt in enumerate(self._prompts):
            same.setdefault(prompt, index)

        def work(tokens: int) -> None:
            missing = [index for index in same.values() if index not in made]
            for group in self._groups(missing, PROMPTS * tokens):
                made.update(self._continue(group, tokens, forward))

        allowance.within(work)
        return [made[same[prompt]] for prompt in self._prompts]

    def _groups(self, which: Sequence[int], room: int) -> Iterator[tuple[int, ...]]:
        """Prompts at once, those that begin alike together, as many as there is room for."""
        group: list[int] = []
        used = 0
        for index in sorted(which, key=lambda each: self._prompts[each].ids):
            size = len(self._prompts[index].ids) + self._prompts[index].new
            if group and used + size > room:
                yield tuple(group)
                group, used = [], 0
            group.append(index)
            used += size
        if group:
            yield tuple(group)

    def _continue(self, group: tuple[int, ...], tokens: int, forward: Forward) -> dict[int, list[int]]:
        rows: dict[Tokens, list[int]] = {}
        for row, index in enumerate(group):
            rows.setdefault(self._prompts[index].ids, []).append(row)
        if group not in self._plans or self._plans[group][0] != tokens:
            tree = token_tree(list(rows), longest=tokens)
            ending = {node: number for number, node in enumerate(tree.ends)}
            passes = plan_passes(tree, limit=tokens)
            self._plans[group] = (tokens, batches_of(tree, passes, (), ending, forward.device))
        decoder = Decoder(forward, [self._prompts[index] for index in group], list(rows.values()), self._stopping)
        forward.run(self._plans[group][1], Answers.of(0, forward.device), decoder.started)
        return dict(zip(group, decoder.finish(), strict=True))


class Decoder:
    """Prompts at work. `rows`: by sequence of the plan, the prompts that it is."""

    def __init__(
        self, forward: Forward, prompts: Sequence[Prompt], rows: Sequence[Sequence[int]], stopping: Stopping
    ) -> None:
        self._prompts, self._rows, self._stopping = prompts, rows, stopping
        room = max(len(prompt.ids) + prompt.new for prompt in prompts)
        self._held = Continuing(forward, len(prompts), room)
        self._made: list[list[int]] = [[] for _ in prompts]

    def started(self, batch: Batch, made: KeysValues, trunk: KeysValues | None, logits: torch.Tensor) -> None:
        """Take over the sequences that end in a batch, with their first new tokens."""
        for ending in batch.endings:
            rows = self._rows[ending.sequence]
            self._held.begin(rows, batch, ending, made, trunk)
            self._take(rows, logits[[ending.hidden] * len(rows)])

    def finish(self) -> list[list[int]]:
        """Go on until every sequence has ended. Returns the new tokens by prompt."""
        held = list(range(len(self._prompts)))  # the prompts that are still in the batch
        while active := [row for row in held if not self._ended(row)]:
            if len(active) <= LEAVE * len(held):
                self._held.stay([held.index(row) for row in active], max(map(self._left, active)))
                held = active
            # Those that have ended go on unheard until they are let go: each has room for all that it may make.
            logits = self._held.step([self._made[row][-1] for row in held])
            working = set(active)
            places = [place for place, row in enumerate(held) if row in working]
            self._take(active, logits[places])
            for place, row in enumerate(held):
                if row not in working:
                    self._held.lengths[place] -= 1  # stays where it was
        return self._made

    def _take(self, rows: Sequence[int], logits: torch.Tensor) -> None:
        """The likeliest token goes on each of the rows."""
        if bool(torch.isnan(logits[:, 0]).any()):  # NaN in a hidden state makes the whole row NaN
            raise NotFinite("the next-token logits are NaN")
        before = [self._prompts[row].ids + tuple(self._made[row]) for row in rows] if self._stopping.penalty else []
        for row, token in zip(rows, self._stopping.likeliest(logits, before), strict=True):
            self._made[row].append(token)

    def _ended(self, row: int) -> bool:
        return self._left(row) <= 0 or self._stopping.ends(self._made[row], self._prompts[row].stops)

    def _left(self, row: int) -> int:
        return self._prompts[row].new - len(self._made[row])
