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


@dataclass(frozen=True)
class Part:
    """Prompts that are continued at once.

    `numbers`: of the prompts; `sequences`: by sequence of the batches, the prompts that it is, as places in `prompts`;
    `calm`: by prompt, tokens that end nothing (they become more); `room`: tokens of the longest text.
    """

    numbers: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    sequences: tuple[tuple[int, ...], ...]
    calm: tuple[set[int], ...]
    room: int
    batches: tuple[Batch, ...]


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
        self._requests = requests or Likelihoods((), max_length=1, share=True)
        self._same: dict[Prompt, int] = {}  # equal prompts have equal answers: the number of the first of them
        self._first = [self._same.setdefault(prompt, number) for number, prompt in enumerate(prompts)]
        self._beside: dict[int, list[int]] = {number: [] for number in self._same.values()}
        for number, requested in zip(self._first, beside, strict=False):
            self._beside[number] += requested
        self._parts: dict[tuple[int, ...], tuple[Part, ...]] = {}  # by the numbers of the prompts in them
        self._tokens = 0  # of the passes of these parts

    def ask(self, forward: Forward, allowance: Allowance) -> tuple[list[list[int]], list[Likelihood]]:
        """The new tokens of every prompt, and the likelihoods of the requests.

        Raises NotFinite for NaN logits, MemoryError when nothing fits.
        """
        made: dict[int, list[int]] = {}
        answers = self._requests.blank(forward)

        def work(tokens: int) -> None:
            if tokens != self._tokens:  # memory ran out: the plans of larger passes would only take more of it
                self._tokens, self._parts = tokens, {}
                forward.give_back()
            missing = tuple(number for number in self._same.values() if number not in made)
            if missing not in self._parts:
                groups = self._groups(missing, PROMPTS * tokens)
                self._parts[missing] = tuple(self._part(group, tokens, forward) for group in groups)
            for part in self._parts[missing]:
                made.update(zip(part.numbers, self._continue(part, forward, answers), strict=True))

        allowance.within(work)
        return [made[number] for number in self._first], self._requests.read(answers)

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

    def _part(self, numbers: tuple[int, ...], tokens: int, forward: Forward) -> Part:
        prompts = tuple(self._prompts[number] for number in numbers)
        sequences: dict[Tokens, list[int]] = {}
        for place, prompt in enumerate(prompts):
            sequences.setdefault(prompt.ids, []).append(place)
        beside = list(dict.fromkeys(request for number in numbers for request in self._beside[number]))
        return Part(
            numbers,
            prompts,
            tuple(map(tuple, sequences.values())),
            tuple(self._stopping.calm(prompt.stops) for prompt in prompts),
            max(len(prompt.ids) + prompt.new for prompt in prompts),
            self._requests.batches(beside, tokens, forward, list(sequences)),
        )

    def _continue(self, part: Part, forward: Forward, answers: Answers) -> list[list[int]]:
        try:
            return Decoder(forward, part, self._stopping).run(answers)
        except NotFinite:  # of this model, or what one before it left in memory: infinity does not stay behind a mask
            forward.give_back()
            return Decoder(forward, part, self._stopping).run(answers)


class Decoder:
    """Prompts at work."""

    def __init__(self, forward: Forward, part: Part, stopping: Stopping) -> None:
        self._forward, self._part, self._stopping = forward, part, stopping
        self._held = Continuing(forward, len(part.prompts), part.room)
        self._working: list[int] = []  # by row held, its prompt
        self._made: list[list[int]] = [[] for _ in part.prompts]

    def run(self, answers: Answers) -> list[list[int]]:
        """The new tokens by prompt; the answers of the part's batches are filled in."""
        self._forward.run(self._part.batches, answers, self._started)
        while self._working:
            self._take(self._working, self._held.step([self._made[prompt][-1] for prompt in self._working]))
            if gone := self._ended(self._working):
                self._working = [self._working[row] for row in self._held.leave(gone)]
        return self._made

    def _started(self, batch: Batch, made: KeysValues, trunk: KeysValues | None, logits: torch.Tensor) -> None:
        """Take over the sequences that end in a batch and go on after their first new tokens."""
        endings = batch.endings
        if endings is None:
            return
        of = [ending for ending, sequence in enumerate(endings.sequences) for _ in self._part.sequences[sequence]]
        begun = [prompt for sequence in endings.sequences for prompt in self._part.sequences[sequence]]
        self._take(begun, logits[endings.hidden[of]])
        ended = set(self._ended(begun))
        if len(ended) < len(begun):
            self._held.begin([each for place, each in enumerate(of) if place not in ended], endings, made, trunk)
            self._working += [prompt for place, prompt in enumerate(begun) if place not in ended]

    def _take(self, prompts: Sequence[int], logits: torch.Tensor) -> None:
        """The likeliest token goes on each of the prompts."""
        if bool(torch.isnan(logits[:, 0]).any()):  # NaN in a hidden state makes the whole row NaN
            raise NotFinite("the next-token logits are NaN")
        penalised = self._stopping.penalty is not None
        before = [self._part.prompts[each].ids + tuple(self._made[each]) for each in prompts] if penalised else []
        for prompt, token in zip(prompts, self._stopping.likeliest(logits, before), strict=True):
            self._made[prompt].append(token)

    def _ended(self, prompts: Sequence[int]) -> list[int]:
        """The places of those whose text is complete."""
        made, calm, asked = self._made, self._part.calm, self._part.prompts
        return [
            place
            for place, prompt in enumerate(prompts)
            if len(made[prompt]) >= asked[prompt].new
            or (made[prompt][-1] not in calm[prompt] and self._stopping.ends(made[prompt], asked[prompt].stops))
        ]
