"""The keys and values of sequences that go on token by token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from tasks.batch import Endings
from tasks.forward import Forward, KeysValues


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values, [rows, room, heads, size] each, so that a token's stand together.

    The first `count` rows are sequences that begin at 0 and have `lengths` tokens; `used` is the longest with the
    token that is to come.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.used = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        present = key_states.shape[0]
        rows = torch.arange(present, device=key_states.device)
        self.keys[rows, self.lengths] = key_states[:, :, 0]
        self.values[rows, self.lengths] = value_states[:, :, 0]
        keys, values = (each[:present, : self.used].transpose(1, 2) for each in (self.keys, self.values))
        return keys, values

    def get_seq_length(self) -> int:
        return self.used - 1


class Continuing:
    """`count` sequences of at most `room` tokens. `lengths`: by row, tokens whose keys and values are there."""

    def __init__(self, forward: Forward, count: int, room: int) -> None:
        self._forward, self._count, self._room = forward, count, room
        self._layers: list[GrowingLayer] = []
        self._begun: list[tuple[slice, int]] = []  # rows, and how many of their tokens hold a number
        self._finite = 0  # tokens that hold a number in every row: what is masked must be finite all the same
        self.lengths: list[int] = []

    def begin(self, of: Sequence[int], endings: Endings, made: KeysValues, trunk: KeysValues | None) -> None:
        """Take over what a forward pass left of the sequences that end in it: of the endings `of`, as the next rows."""
        if not self._layers:
            place = count()
            self._layers = [
                GrowingLayer(
                    *(
                        self._forward.room(next(place), each, (self._count, self._room, each.shape[1], each.shape[3]))
                        for each in layer
                    )
                )
                for layer in made
            ]
        before = 0 if trunk is None else trunk[0][0].shape[-2]
        chosen = torch.tensor(list(of), device=self._forward.device)
        inside = endings.inside[chosen]
        rows, end = slice(len(self.lengths), len(self.lengths) + len(of)), before + inside.shape[1]
        for number, layer in enumerate(self._layers):
            for kept, part in ((layer.keys, 0), (layer.values, 1)):
                if trunk is not None:
                    kept[rows, :before] = trunk[number][part].transpose(1, 2)
                tokens = made[number][part].transpose(1, 2)  # [rows, length, heads, size]
                source = (endings.rows[chosen].unsqueeze(1) * tokens.shape[1] + inside).flatten()
                # What stands behind a shorter sequence is masked, then written over.
                taken = tokens.flatten(0, 1).flatten(1).index_select(0, source)
                kept[rows, before:end] = taken.view(*inside.shape, *tokens.shape[2:])
        self._begun.append((rows, end))
        self.lengths += [before + endings.lengths[ending] for ending in of]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """[rows, vocabulary]: what follows when every row has got one more token."""
        forward = self._forward
        lengths = torch.tensor(self.lengths, device=forward.device)
        used = max(self.lengths) + 1
        self._make_finite(used)
        for layer in self._layers:
            layer.lengths, layer.used = lengths, used
        mask = torch.zeros(len(lengths), 1, 1, used, dtype=forward.dtype, device=forward.device)
        later = torch.arange(used, device=forward.device)[None, :] > lengths[:, None]
        mask[:, 0, 0].masked_fill_(later, torch.finfo(forward.dtype).min)
        last = torch.tensor(tokens, device=forward.device).unsqueeze(1)
        with torch.inference_mode(), forward.timed(last):
            logits: torch.Tensor = forward.model(
                input_ids=last,
                attention_mask=mask,
                position_ids=lengths.unsqueeze(1),
                past_key_values=Cache(layers=list(self._layers)),
                use_cache=True,
            ).logits[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def leave(self, gone: Sequence[int]) -> list[int]:
        """Let go of the rows `gone`; the last rows move into their places. Returns the old row of each new one."""
        leaving, used = set(gone), max(self.lengths)
        self._make_finite(used)
        staying = len(self.lengths) - len(leaving)
        order = list(range(staying))
        holes = [row for row in order if row in leaving]
        movers = [row for row in range(staying, len(self.lengths)) if row not in leaving]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        for layer in self._layers if holes else ():
            for each in (layer.keys, layer.values):
                each[holes, :used] = each[movers, :used]
        self.lengths = [self.lengths[row] for row in order]
        return order

    def _make_finite(self, used: int) -> None:
        for rows, end in self._begun:
            self._blank(rows, end, used)
        if self._begun:
            self._begun, self._finite = [], used
        self._blank(slice(None), self._finite, used)
        self._finite = max(self._finite, used)

    def _blank(self, rows: slice, start: int, stop: int) -> None:
        for layer in self._layers if start < stop else ():
            layer.keys[rows, start:stop] = 0
            layer.values[rows, start:stop] = 0
