"""Greedy text, as `HFLM.generate_until` writes it: prompts evaluated once where they are alike, and every sequence
leaves the batch when it has met its stop string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from tasks.batch import Batch, batches_of
from tasks.errors import NotFinite
from tasks.forward import Answers, Forward, KeysValues
from tasks.memory import Allowance
from tasks.passes import plan_passes
from tasks.stopping import Stopping
from tasks.tree import Tokens, token_tree

PROMPTS = 8  # times the tokens of a pass: how many tokens of prompts and answers are generated from at once
LEAVE = 0.75  # the part of the batch still at work, below which the keys and values of the others are let go


@dataclass(frozen=True)
class Prompt:
    """`ids`: the tokens to go on from, already cut; `new`: how many may be made; `stops`: texts that end it."""

    ids: Tokens
    new: int
    stops: tuple[str, ...]


class DecodeLayer(DynamicLayer):
    """Keys and values of sequences of different lengths, each beginning at 0; new ones go to `lengths`."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.lengths = torch.zeros(0, dtype=torch.long)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(key_states.shape[0], device=key_states.device)
        self.keys[rows, :, self.lengths] = key_states[:, :, 0]
        self.values[rows, :, self.lengths] = value_states[:, :, 0]
        used = self.get_seq_length() + 1
        return self.keys[:, :, :used], self.values[:, :, :used]

    def get_seq_length(self) -> int:
        return int(self.lengths.max())


class Generation:
    """What is to be continued, planned once for one model after another. `stopping`: see there."""

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
        sequences = list(dict.fromkeys(self._prompts[index].ids for index in group))
        if group not in self._plans or self._plans[group][0] != tokens:
            tree = token_tree(sequences, longest=tokens)
            ending = {node: number for number, node in enumerate(tree.ends)}
            passes = plan_passes(tree, limit=tokens)
            self._plans[group] = (tokens, batches_of(tree, passes, (), ending, forward.device))
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(group):
            rows.setdefault(sequences.index(self._prompts[index].ids), []).append(row)
        decoder = Decoder(forward, [self._prompts[index] for index in group], rows, self._stopping)
        forward.run(self._plans[group][1], Answers.of(0, forward.device), decoder.started)
        return dict(zip(group, decoder.finish(), strict=True))


class Decoder:
    """A batch of prompts at work. `rows`: by sequence of the plan, the prompts that it is the beginning of."""

    def __init__(
        self, forward: Forward, prompts: Sequence[Prompt], rows: dict[int, list[int]], stopping: Stopping
    ) -> None:
        self._forward, self._prompts, self._rows, self._stopping = forward, prompts, rows, stopping
        self._room = max(len(prompt.ids) + prompt.new for prompt in prompts)
        self._layers: list[DecodeLayer] = []
        self._made: list[list[int]] = [[] for _ in prompts]
        self._active = list(range(len(prompts)))

    def started(self, batch: Batch, made: KeysValues, trunk: KeysValues | None, logits: torch.Tensor) -> None:
        """Take over the keys and values of the sequences that end in a batch, and their first new tokens."""
        if not self._layers:
            count = len(self._prompts)
            self._layers = [DecodeLayer(*(each.new_zeros(count, each.shape[1], self._room, each.shape[3]) for each in layer))
                            for layer in made]  # fmt: skip
        for ending in batch.endings:
            before = 0 if trunk is None else trunk[0][0].shape[-2]
            length = before + len(ending.inside)
            for number, layer in enumerate(self._layers):
                for kept, new, place in ((layer.keys, made[number][0], 0), (layer.values, made[number][1], 1)):
                    for row in self._rows[ending.sequence]:
                        if trunk is not None:
                            kept[row, :, :before] = trunk[number][place][0]
                        kept[row, :, before:length] = new[ending.row][:, ending.inside]
            for row in self._rows[ending.sequence]:
                self._take([row], logits[ending.hidden : ending.hidden + 1])

    def finish(self) -> list[list[int]]:
        """Go on until every sequence has ended. Returns the new tokens by prompt."""
        device = self._forward.device
        lengths = torch.tensor([len(prompt.ids) for prompt in self._prompts], device=device)
        held = list(self._active)  # the prompts whose keys and values stand in the layers, by row
        self._active = [row for row in held if not self._ended(row)]
        while self._active:
            if len(self._active) <= LEAVE * len(held):
                staying = torch.tensor([held.index(row) for row in self._active], device=device)
                used = int(lengths[staying].max()) + max(self._left(row) for row in self._active)
                for layer in self._layers:
                    layer.keys, layer.values = (each[staying, :, :used] for each in (layer.keys, layer.values))
                lengths, held = lengths[staying], list(self._active)
            last = torch.tensor([self._made[row][-1] for row in held], device=device)
            logits = self._step(last.unsqueeze(1), lengths)
            lengths = lengths + 1
            active = set(self._active)
            places = [place for place, row in enumerate(held) if row in active]
            self._take(self._active, logits[places] if len(places) < len(held) else logits)
            self._active = [row for row in self._active if not self._ended(row)]
            # A row that has ended stays where it was until it is let go, so that it never outgrows its room.
            done = [place for place, row in enumerate(held) if row in active and row not in set(self._active)]
            lengths[done] -= 1
            lengths[[place for place, row in enumerate(held) if row not in active]] -= 1
        return self._made

    def _step(self, last: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] after one more token of every sequence."""
        forward = self._forward
        for layer in self._layers:
            layer.lengths = lengths
        used = int(lengths.max()) + 1
        mask = torch.zeros(len(lengths), 1, 1, used, dtype=forward.dtype, device=forward.device)
        later = torch.arange(used, device=forward.device)[None, :] > lengths[:, None]
        mask[:, 0, 0].masked_fill_(later, torch.finfo(forward.dtype).min)
        with torch.inference_mode(), forward.timed(last):
            return forward.model(
                input_ids=last,
                attention_mask=mask,
                position_ids=lengths.unsqueeze(1),
                past_key_values=Cache(layers=self._layers),
                use_cache=True,
            ).logits[:, -1]

    def _take(self, rows: Sequence[int], logits: torch.Tensor) -> None:
        """The likeliest token goes on each of the rows."""
        if bool(torch.isnan(logits[:, 0]).any()):  # NaN in a hidden state makes the whole row NaN
            raise NotFinite("tasks: the next-token logits are NaN; the model's weights overflow or are not finite")
        before = [self._prompts[row].ids + tuple(self._made[row]) for row in rows] if self._stopping.penalty else []
        for row, token in zip(rows, self._stopping.likeliest(logits, before), strict=True):
            self._made[row].append(token)

    def _ended(self, row: int) -> bool:
        return self._left(row) <= 0 or self._stopping.ends(self._made[row], self._prompts[row].stops)

    def _left(self, row: int) -> int:
        return self._prompts[row].new - len(self._made[row])
