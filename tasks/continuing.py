"""The keys and values of sequences that go on token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from tasks.batch import Endings
from tasks.forward import Forward, KeysValues


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values, [rows, heads, room, size], of sequences that begin at 0 and have `lengths` tokens."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.used = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(key_states.shape[0], device=key_states.device)
        self.keys[rows, :, self.lengths] = key_states[:, :, 0]
        self.values[rows, :, self.lengths] = value_states[:, :, 0]
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        return self.used - 1


class Continuing:
    """`count` sequences of at most `room` tokens. `lengths`: by row, tokens whose keys and values are there."""

    def __init__(self, forward: Forward, count: int, room: int) -> None:
        self._forward, self._count, self._room = forward, count, room
        self._layers: list[GrowingLayer] = []
        self.lengths = [0] * count

    def begin(
        self, of: Sequence[int], rows: Sequence[int], endings: Endings, made: KeysValues, trunk: KeysValues | None
    ) -> None:
        """Take over what a forward pass left of the sequences that end in it: of the ending `of[i]` for `rows[i]`."""
        device = self._forward.device
        if not self._layers:
            shapes = [[(self._count, each.shape[1], self._room, each.shape[3]) for each in layer] for layer in made]
            self._layers = [
                GrowingLayer(*(each.new_zeros(shape) for each, shape in zip(layer, its, strict=True)))
                for layer, its in zip(made, shapes, strict=True)
            ]
        before = 0 if trunk is None else trunk[0][0].shape[-2]
        chosen, targets = torch.tensor(list(of), device=device), torch.tensor(list(rows), device=device)
        source, inside = endings.rows[chosen].unsqueeze(1), endings.inside[chosen]
        for number, layer in enumerate(self._layers):
            for kept, part in ((layer.keys, 0), (layer.values, 1)):
                if trunk is not None:
                    kept[targets, :, :before] = trunk[number][part]
                # [sequences, longest, heads, size]; what stands behind a shorter sequence is masked, then written over
                new = made[number][part].transpose(1, 2)[source, inside]
                kept[targets, :, before : before + inside.shape[1]] = new.transpose(1, 2)
        for ending, row in zip(of, rows, strict=True):
            self.lengths[row] = before + endings.lengths[ending]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """[rows, vocabulary]: what follows when every row has got one more token."""
        forward = self._forward
        lengths = torch.tensor(self.lengths, device=forward.device)
        used = max(self.lengths) + 1
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

    def stay(self, rows: Sequence[int], more: int) -> None:
        """Let go of all rows but these, which get at most `more` tokens."""
        self.lengths = [self.lengths[row] for row in rows]
        room = max(self.lengths) + more
        staying = torch.tensor(rows, device=self._forward.device)
        for layer in self._layers:
            layer.keys, layer.values = (each[staying, :, :room] for each in (layer.keys, layer.values))
