"""Greedy text, as `HFLM.generate_until` writes it: prompts evaluated once where they are alike, and every sequence
leaves the batch when it has met its stop string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tasks.batch import Batch
from tasks.continuing import Continuing
from tasks.errors import NotFinite
from tasks.forward import Answers, Forward, KeysValues
from tasks.likelihood import Likelihood, Likelihoods
from tasks.memory import Allowance
from tasks.stopping import Stopping
from tasks.tree import Tokens

PROMPTS = 8  # times the tokens of a pass: how many tokens of prompts and answers are generated from at once


@dataclass(frozen=True)
class Prompt:
    """`ids`: the tokens to go on from, already cut; `new`: how many may be made; `stops`: texts that end it."""

    ids: Tokens
    new: int
    stops: tuple[str, ...]


class Generation:
    """What is to be continued, planned once for one model after another.

    `beside`: by prompt, log-likelihoods that are asked of the same beginnings (of right answers, say), as numbers of
    the `requests`, whose stretches are evaluated together with the prompts.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        stopping: Stopping,
        beside: Sequence[Sequence[int]] = (),
        requests: Likelihoods | None = None,
    ) -> None:
        self._prompts, self._stopping = prompts, stopping
        self._beside = beside or [()] * len(prompts)
        self._requests = requests or Likelihoods((), max_length=1, share=True)
        self._plans: dict[tuple[int, ...], tuple[Batch, ...]] = {}
        self._tokens = 0  # of the passes of these plans

    def ask(self, forward: Forward, allowance: Allowance) -> tuple[list[list[int]], list[Likelihood]]:
        """The new tokens of every prompt, and the likelihoods of the requests.

        Raises NotFinite for NaN logits, MemoryError when nothing fits.
        """
        made: dict[int, list[int]] = {}
        answers = self._requests.blank(forward)
        same: dict[Prompt, list[int]] = {}  # equal prompts have equal answers
        for index, prompt in enumerate(self._prompts):
            same.setdefault(prompt, []).append(index)

        def work(tokens: int) -> None:
            if tokens != self._tokens:  # memory ran out: the plans of larger passes would only take more of it
                self._tokens, self._plans = tokens, {}
                forward.give_back()
            missing = [indices[0] for indices in same.values() if indices[0] not in made]
            for group in self._groups(missing, PROMPTS * tokens):
                everybody = [index for first in group for index in same[self._prompts[first]]]
                beside = list(dict.fromkeys(request for index in everybody for request in self._beside[index]))
                made.update(self._continue(group, beside, tokens, forward, answers))

        allowance.within(work)
        return [made[same[prompt][0]] for prompt in self._prompts], self._requests.read(answers)

    def _groups(self, which: Sequence[int], room: int) -> Iterator[tuple[int, ...]]:
        """Prompts at once, as many as there is room for when each has the longest one's: those of like lengths
        together, and among them those that begin alike."""

        def size(index: int) -> int:
            return len(self._prompts[index].ids) + self._prompts[index].new

        group: list[int] = []
        longest = 0
        for index in sorted(which, key=lambda each: (size(each).bit_length(), self._prompts[each].ids)):
            longest = max(longest, size(index))
            if group and longest * (len(group) + 1) > room:
                yield tuple(group)
                group, longest = [], size(index)
            group.append(index)
        if group:
            yield tuple(group)

    def _continue(
        self, group: tuple[int, ...], beside: Sequence[int], tokens: int, forward: Forward, answers: Answers
    ) -> dict[int, list[int]]:
        rows: dict[Tokens, list[int]] = {}
        for row, index in enumerate(group):
            rows.setdefault(self._prompts[index].ids, []).append(row)
        if group not in self._plans:
            self._plans[group] = self._requests.batches(beside, tokens, forward, list(rows))
        decoder = Decoder(forward, [self._prompts[index] for index in group], list(rows.values()), self._stopping)
        forward.run(self._plans[group], answers, decoder.started)
        return dict(zip(group, decoder.finish(), strict=True))


class Decoder:
    """Prompts at work. `rows`: by sequence of the plan, the prompts that it is."""

    def __init__(
        self, forward: Forward, prompts: Sequence[Prompt], rows: Sequence[Sequence[int]], stopping: Stopping
    ) -> None:
        self._prompts, self._rows, self._stopping = prompts, rows, stopping
        room = max(len(prompt.ids) + prompt.new for prompt in prompts)
        self._held = Continuing(forward, len(prompts), room)
        self._calm = [stopping.calm(prompt.stops) for prompt in prompts]
        self._working: list[int] = []  # by row held, its prompt
        self._made: list[list[int]] = [[] for _ in prompts]

    def started(self, batch: Batch, made: KeysValues, trunk: KeysValues | None, logits: torch.Tensor) -> None:
        """Take over the sequences that end in a batch, with their first new tokens."""
        endings = batch.endings
        if endings is None:
            return
        of = [ending for ending, sequence in enumerate(endings.sequences) for _ in self._rows[sequence]]
        begun = [prompt for sequence in endings.sequences for prompt in self._rows[sequence]]
        self._held.begin(of, endings, made, trunk)
        self._working += begun
        self._take(begun, logits[endings.hidden[of]])

    def finish(self) -> list[list[int]]:
        """Go on until every sequence has ended. Returns the new tokens by prompt."""
        while True:
            if gone := [row for row, prompt in enumerate(self._working) if self._ended(prompt)]:
                self._working = [self._working[row] for row in self._held.leave(gone)]
            if not self._working:
                return self._made
            self._take(self._working, self._held.step([self._made[prompt][-1] for prompt in self._working]))

    def _take(self, rows: Sequence[int], logits: torch.Tensor) -> None:
        """The likeliest token goes on each of the rows."""
        if bool(torch.isnan(logits[:, 0]).any()):  # NaN in a hidden state makes the whole row NaN
            raise NotFinite("the next-token logits are NaN")
        before = [self._prompts[row].ids + tuple(self._made[row]) for row in rows] if self._stopping.penalty else []
        for row, token in zip(rows, self._stopping.likeliest(logits, before), strict=True):
            self._made[row].append(token)

    def _ended(self, prompt: int) -> bool:
        made = self._made[prompt]
        if len(made) >= self._prompts[prompt].new:
            return True
        return made[-1] not in self._calm[prompt] and self._stopping.ends(made, self._prompts[prompt].stops)
