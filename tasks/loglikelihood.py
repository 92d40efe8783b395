"""Log-likelihoods of fixed requests, batched once: lm-eval's numbers with less around the forward pass.

The batches are those of `HFLM._loglikelihood_tokens`: requests that share all tokens but the last are one row, rows
are sorted from the longest, and padded on the right. Two things differ. The plan is made once, not for every
candidate. And log-softmax is taken only at the scored positions: it works row by row, so the values are the same
bits, without a float32 copy of all logits (for a vocabulary of 128k, gigabytes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Encoded = tuple[list[int], list[int]]  # token ids of context and continuation


@dataclass(frozen=True)
class Batch:
    """One forward pass and where its answers stand.

    `tokens`: [rows, length]. `row`, `position`, `token`: [scored], one entry per scored token; `greedy_position` is
    where lm-eval compares the token with the likeliest one. `sizes`: scored tokens of each request in `requests`.
    """

    tokens: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    greedy_position: torch.Tensor
    token: torch.Tensor
    sizes: tuple[int, ...]
    requests: tuple[int, ...]


def plan_batches(
    encoded: Sequence[Encoded], *, batch_size: int, max_length: int, device: torch.device
) -> tuple[Batch, ...]:
    """The batches for these requests, in lm-eval's order.

    Raises AssertionError, as lm-eval does, for a continuation without tokens or longer than `max_length`.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for index, (context, continuation) in enumerate(encoded):
        if not context or not 0 < len(continuation) <= max_length:
            raise AssertionError(f"{len(continuation)} tokens in an answer, the context holds {max_length}")
        rows.setdefault(tuple(context + continuation[:-1]), []).append(index)
    # The longest continuation stands for its row, since it needs the most positions.
    leaders = [(max(members, key=lambda index: len(encoded[index][1])), members) for members in rows.values()]
    leaders.sort(key=lambda leader: _longest_first(encoded[leader[0]]))
    chunks = [leaders[start : start + batch_size] for start in range(0, len(leaders), batch_size)]
    return tuple(_batch(chunk, encoded, max_length, device) for chunk in chunks)


def run_batches(
    batches: Sequence[Batch], call: Callable[[torch.Tensor], torch.Tensor], *, count: int
) -> list[tuple[float, bool]]:
    """(log-likelihood, whether every token is the likeliest) of each of the `count` requests, in their order.

    `call` maps tokens [rows, length] to logits [rows, length, vocabulary].
    """
    answers: list[tuple[float, bool]] = [(0.0, False)] * count
    for batch in batches:
        logits = call(batch.tokens)
        scored = torch.log_softmax(logits[batch.row, batch.position], dim=-1, dtype=torch.float32)
        taken = scored.gather(1, batch.token.unsqueeze(1)).squeeze(1)
        sums = torch.stack([part.sum() for part in torch.split(taken, list(batch.sizes))]).tolist()
        if torch.equal(batch.position, batch.greedy_position):
            likeliest = scored.argmax(dim=-1)
        else:
            likeliest = torch.log_softmax(logits[batch.row, batch.greedy_position], dim=-1, dtype=torch.float32).argmax(
                dim=-1
            )
        hits = (likeliest == batch.token).tolist()
        start = 0
        for request, size, total in zip(batch.requests, batch.sizes, sums, strict=True):
            answers[request] = (total, all(hits[start : start + size]))
            start += size
    return answers


def _longest_first(pair: Encoded) -> tuple[int, tuple[int, ...]]:
    tokens = pair[0] + pair[1]
    return -len(tokens), tuple(tokens)


def _batch(
    chunk: Sequence[tuple[int, list[int]]], encoded: Sequence[Encoded], max_length: int, device: torch.device
) -> Batch:
    inputs = [(encoded[leader][0] + encoded[leader][1])[-(max_length + 1) :][:-1] for leader, _ in chunk]
    tokens = torch.zeros((len(inputs), max(map(len, inputs))), dtype=torch.long)
    row: list[int] = []
    position: list[int] = []
    greedy_position: list[int] = []
    token: list[int] = []
    sizes: list[int] = []
    requests: list[int] = []
    for number, ((leader, members), ids) in enumerate(zip(chunk, inputs, strict=True)):
        tokens[number, : len(ids)] = torch.tensor(ids)
        first = len(ids) - len(encoded[leader][1])
        for member in members:
            continuation = encoded[member][1]
            size = len(continuation)
            row += [number] * size
            # Where continuations of different lengths share a row, lm-eval sums from the leader's first position
            # and compares with the likeliest tokens up to its last one.
            position += range(first, first + size)
            greedy_position += range(len(ids) - size, len(ids))
            token += continuation
            sizes.append(size)
            requests.append(member)

    def on_device(numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=device)

    return Batch(
        tokens=tokens.to(device),
        row=on_device(row),
        position=on_device(position),
        greedy_position=on_device(greedy_position),
        token=on_device(token),
        sizes=tuple(sizes),
        requests=tuple(requests),
    )
