"""The keys and values of sequences that go on token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from tasks.batch import Endings
from tasks.forward import Forward, KeysValues


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values, [rows, room, heads, size] each, so that a token's stand together.

    The first rows are sequences that begin at 0 and have `lengths` tokens; `used` is the longest with the token that is
    to come.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.rows = self.lengths = torch.zeros(0, dtype=torch.long)
        self.used = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[self.rows, self.lengths] = key_states[:, :, 0]
        self.values[self.rows, self.lengths] = value_states[:, :, 0]
        present = key_states.shape[0]
        keys, values = (each[:present, : self.used].transpose(1, 2) for each in (self.keys, self.values))
        return keys, values

    def get_seq_length(self) -> int:
        return self.used - 1


class Continuing:
    """`count` sequences of at most `room` tokens. `lengths`: by row, tokens whose keys and values are there.

    What stands in a row behind its sequence is left from other sequences, or other models: it gets the weight 0, so it
    need only be finite. Where it is not, the logits are NaN, and `Forward.give_back` gets clean memory.
    """

    def __init__(self, forward: Forward, count: int, room: int) -> None:
        self._forward, self._count, self._room = forward, count, room
        self._layers: list[GrowingLayer] = []
        self._held: list[torch.Tensor] = []  # [tensors of one shape, rows, room, heads, size], which the layers view
        self.lengths: list[int] = []

    def begin(self, of: Sequence[int], endings: Endings, made: KeysValues, trunk: KeysValues | None) -> None:
        """Take over what a forward pass left of the sequences that end in it: of the endings `of`, as the next rows."""
        if not self._layers:
            self._hold(made)
        before = 0 if trunk is None else trunk[0][0].shape[-2]
        chosen = torch.tensor(list(of), device=self._forward.device)
        inside = endings.inside[chosen]
        starts = endings.rows[chosen].unsqueeze(1)
        rows, end = slice(len(self.lengths), len(self.lengths) + len(of)), before + inside.shape[1]
        for number, layer in enumerate(self._layers):
            for kept, part in ((layer.keys, 0), (layer.values, 1)):
                if trunk is not None:
                    kept[rows, :before] = trunk[number][part].transpose(1, 2)
                tokens = made[number][part].transpose(1, 2)  # [rows, length, heads, size]
                source = (starts * tokens.shape[1] + inside).flatten()
                taken = tokens.flatten(0, 1).flatten(1).index_select(0, source)
                kept[rows, before:end] = taken.view(*inside.shape, *tokens.shape[2:])
        self.lengths += [before + endings.lengths[ending] for ending in of]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """[rows, vocabulary]: what follows when every row has got one more token."""
        forward = self._forward
        lengths = torch.tensor(self.lengths, device=forward.device)
        rows = torch.arange(len(lengths), device=forward.device)
        used = max(self.lengths) + 1
        for layer in self._layers:
            layer.rows, layer.lengths, layer.used = rows, lengths, used
        mask = torch.zeros(len(lengths), 1, 1, used, dtype=forward.dtype, device=forward.device)
        later = torch.arange(used, device=forward.device)[None, :] > lengths[:, None]
        mask[:, 0, 0].masked_fill_(later, -torch.inf)  # no finite number outweighs whatever may be left there
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
        leaving = set(gone)
        staying = len(self.lengths) - len(leaving)
        order = list(range(staying))
        holes = [row for row in order if row in leaving]
        movers = [row for row in range(staying, len(self.lengths)) if row not in leaving]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
            for held in self._held:
                # Row by row each number is copied once; indexing with all of them makes a tensor in between.
                held[:, hole, : self.lengths[mover]] = held[:, mover, : self.lengths[mover]]
        self.lengths = [self.lengths[row] for row in order]
        return order

    def _hold(self, made: KeysValues) -> None:
        """Room for all layers: tensors of one shape are one, so that a row of them moves in one call."""
        tensors = [each for layer in made for each in layer]
        alike: dict[tuple[int, int], list[int]] = {}
        for place, each in enumerate(tensors):
            alike.setdefault((each.shape[1], each.shape[3]), []).append(place)
        views = list(tensors)
        for number, (shape, places) in enumerate(alike.items()):
            held = self._forward.room(number, tensors[places[0]], (len(places), self._count, self._room, *shape))
            self._held.append(held)
            for which, place in enumerate(places):
                views[place] = held[which]
        self._layers = [GrowingLayer(*pair) for pair in zip(views[::2], views[1::2], strict=True)]
