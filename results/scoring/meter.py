"""What goes through a model, seen from the model itself: the same instrument for everybody's forward passes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Meter:
    """Since it was made: forward passes, tokens that entered the embedding, those of them that are no padding, the
    most in one pass, and seconds in the model's modules (CPU: calls return when they are done); `cpu`: the same of the
    calling thread's processor time, which other processes do not lengthen."""

    passes: int = 0
    tokens: int = 0
    real: int = 0
    most: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    _depth: int = field(default=0, repr=False)
    _entered: tuple[float, float] = field(default=(0.0, 0.0), repr=False)


@contextmanager
def metered(model: Any, tokenizer: Any) -> Iterator[Meter]:
    """Count while the block runs. Padding is the tokenizer's pad token and id 0, which no text of these tasks has."""
    meter = Meter()
    padding = {0, tokenizer.pad_token_id}

    def embedded(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        ids = inputs[0]
        meter.passes += 1
        meter.tokens += ids.numel()
        meter.most = max(meter.most, ids.numel())
        meter.real += ids.numel() - sum(int((ids == each).sum()) for each in padding if each is not None)

    def enter(*_: Any) -> None:
        if meter._depth == 0:
            meter._entered = time.perf_counter(), time.thread_time()
        meter._depth += 1

    def leave(*_: Any) -> None:
        meter._depth -= 1
        if meter._depth == 0:
            meter.seconds += time.perf_counter() - meter._entered[0]
            meter.cpu += time.thread_time() - meter._entered[1]

    # A scorer may call the whole model, or its decoder and its head apart: the outermost call counts.
    parts = [each for each in (model, model.get_decoder(), model.get_output_embeddings()) if each is not None]
    hooks = [model.get_input_embeddings().register_forward_pre_hook(embedded)]
    for part in parts:
        hooks.append(part.register_forward_pre_hook(enter, prepend=True))
        hooks.append(part.register_forward_hook(leave, always_call=True))
    try:
        yield meter
    finally:
        for hook in hooks:
            hook.remove()


def shared(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens when every stretch that sequences begin with in common is counted once: the nodes of their trie."""
    ordered = sorted(tuple(each) for each in sequences)
    total, last = 0, ()
    for each in ordered:
        common = next(
            (n for n, (a, b) in enumerate(zip(last, each, strict=False)) if a != b), min(len(last), len(each))
        )
        total += len(each) - common
        last = each
    return total
