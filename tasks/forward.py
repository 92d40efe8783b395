"""Run the batches of a token tree on a model: each stretch of tokens once, the head only where answers stand."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import Cache, DynamicLayer

from tasks.batch import Batch

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]  # by layer, [rows, heads, length, size] each
SOFTMAX = 2**20  # logits turned into log-probabilities at once, which bounds their float32 copy
MASKS = 64 * 2**20  # bytes of masks remembered between candidates


class TrunkLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's cache that gives attention the trunk and the pass's own keys, and remembers the latter."""

    def __init__(self, trunk: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        super().__init__()
        self._trunk = trunk
        self.made: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.made = (key_states, value_states)
        if self._trunk is None:
            return self.made
        rows = key_states.shape[0]
        keys, values = (kept.expand(rows, -1, -1, -1) for kept in self._trunk)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def get_seq_length(self) -> int:
        return 0 if self._trunk is None else int(self._trunk[0].shape[-2])


@dataclass
class Answers:
    """By answer: the log-probability of its token in float32, whether that is the likeliest one, and whether it is
    there."""

    logprob: torch.Tensor
    greedy: torch.Tensor
    there: torch.Tensor

    @staticmethod
    def of(count: int, device: torch.device) -> Answers:
        return Answers(
            torch.zeros(count, device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
        )


class Forward:
    """A model's forward passes. `seconds` is the time spent in them since it was last set to 0, `tokens` what they
    were given, padding included."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model: Any = model
        self.dtype = next(model.parameters()).dtype
        self.device = next(model.parameters()).device
        embeddings: Any = getattr(model, "get_output_embeddings", lambda: None)
        self.head = embeddings()
        self.seconds, self.tokens = 0.0, 0
        self._rooms: dict[int, torch.Tensor] = {}
        self._masks: WeakKeyDictionary[Batch, torch.Tensor] = WeakKeyDictionary()

    def room(self, place: int, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory of this shape, of zeros or what was left there; the same for the same `place` again and again, since
        fresh memory is dear: the system clears it page by page."""
        size = math.prod(shape)
        held = self._rooms.get(place)
        if held is None or held.numel() < size or held.dtype != like.dtype:
            self._rooms.pop(place, None)
            held = self._rooms[place] = like.new_zeros(size)
        return held[:size].view(shape)

    def give_back(self) -> None:
        """Free what `room` holds."""
        self._rooms.clear()

    def run(self, batches: Sequence[Batch], answers: Answers, started: Any = None) -> None:
        """Fill in the batches' answers. `started(batch, keys and values, stems, logits)` is called where sequences end
        that are to be continued."""
        stems: dict[int, KeysValues] = {}
        for batch in batches:
            trunk = joined([stems[node] for node in batch.trunk])
            logits, made = self.logits(batch, trunk)
            logprob, greedy = chosen(logits, batch.of, batch.token)
            answers.logprob[batch.place], answers.greedy[batch.place] = logprob, greedy
            answers.there[batch.place] = True
            for node, row in batch.kept:
                length = batch.lengths[row]
                stems[node] = [(k[row : row + 1, :, :length].clone(), v[row : row + 1, :, :length].clone())
                               for k, v in made]  # fmt: skip
            if batch.endings is not None and started is not None:
                started(batch, made, trunk, logits)
            for node in batch.drop:
                del stems[node]

    def logits(self, batch: Batch, trunk: KeysValues | None) -> tuple[torch.Tensor, KeysValues]:
        """[hidden, vocabulary], and the pass's own keys and values where they are needed."""
        caching = trunk is not None or bool(batch.kept) or batch.endings is not None
        if trunk is not None:
            cache: Any = Cache(layers=[TrunkLayer(layer) for layer in trunk])
        else:
            cache = Cache(layer_class_to_replicate=TrunkLayer) if caching else None
        keywords: dict[str, Any] = {"past_key_values": cache} if caching else {}
        if batch.allowed is not None or trunk is not None:
            keywords["attention_mask"] = self.mask(batch, 0 if trunk is None else trunk[0][0].shape[-2])
            keywords["position_ids"] = batch.positions
        with torch.inference_mode(), self.head_at(batch.hidden) as narrowed, self.timed(batch.tokens):
            logits = self.model(input_ids=batch.tokens, use_cache=caching, **keywords).logits.flatten(0, 1)
            logits = logits if narrowed else logits[batch.hidden]
        return logits, [layer.made for layer in cache.layers] if caching else []

    def mask(self, batch: Batch, trunk: int) -> torch.Tensor:
        """[rows, 1, length, trunk + length] in the model's dtype, to be added to attention's scores."""
        if batch in self._masks:
            return self._masks[batch]
        rows, length = batch.tokens.shape
        allowed = batch.allowed
        if allowed is None:
            allowed = torch.ones(length, length, dtype=torch.bool, device=self.device).tril().expand(rows, -1, -1)
        mask = torch.zeros(rows, 1, length, trunk + length, dtype=self.dtype, device=self.device)
        mask[:, 0, :, trunk:].masked_fill_(~allowed, torch.finfo(self.dtype).min)
        if sum(held.nbytes for held in self._masks.values()) + mask.nbytes <= MASKS:
            self._masks[batch] = mask
        return mask

    @contextmanager
    def head_at(self, hidden: torch.Tensor) -> Iterator[list[bool]]:
        """Make the head see these hidden states alone, as [1, hidden, size]. The list is empty unless it did: model
        code need not call its head as a module."""
        narrowed: list[bool] = []

        def narrow(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            if not inputs or inputs[0].ndim != 3:
                return None
            narrowed.append(True)
            return (inputs[0].flatten(0, 1)[hidden].unsqueeze(0), *inputs[1:])

        hook = None if self.head is None else self.head.register_forward_pre_hook(narrow)
        try:
            yield narrowed
        finally:
            if hook is not None:
                hook.remove()

    @contextmanager
    def timed(self, tokens: torch.Tensor) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - start
            self.tokens += tokens.numel()


def joined(stems: Sequence[KeysValues]) -> KeysValues | None:
    """The stems of a trunk one behind the other, by layer."""
    if len(stems) < 2:
        return stems[0] if stems else None
    return [
        (torch.cat([k for k, _ in layer], dim=-2), torch.cat([v for _, v in layer], dim=-2))
        for layer in zip(*stems, strict=True)
    ]


def chosen(logits: torch.Tensor, of: torch.Tensor, token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The float32 log-probability of `token` in the row `of` of the logits, and whether it is the row's likeliest."""
    best = logits.amax(dim=-1)
    total = best.to(torch.float32, copy=True)  # logarithm of the sum of exponentials, by row
    rows = max(1, SOFTMAX // logits.shape[1])
    for start in range(0, logits.shape[0] if of.numel() else 0, rows):
        part = logits[start : start + rows]
        # The fused log-softmax takes a quarter of the time of logsumexp, and has it in every entry.
        total[start : start + rows] -= torch.log_softmax(part, dim=-1, dtype=torch.float32).amax(dim=-1)
    taken = logits[of, token]
    greedy = taken >= best[of]
    if bool(greedy.any()):  # of equal logits, the first is the likeliest
        hit = torch.unique(of[greedy])
        likeliest = torch.full((logits.shape[0],), -1, device=logits.device)
        likeliest[hit] = logits[hit].argmax(dim=-1)
        greedy = likeliest[of] == token
    return taken.float() - total[of], greedy
