"""Log-likelihoods of fixed requests: `HFLM.loglikelihood`'s numbers, with every stretch of tokens evaluated once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tasks.batch import Batch, Target, batches_of
from tasks.encoding import Encoded
from tasks.forward import Answers, Forward
from tasks.memory import Allowance
from tasks.passes import WORTH, Pass, plain_passes, plan_passes
from tasks.reach import UNBOUNDED, Reach
from tasks.tree import Tokens, Tree, separate, token_tree


@dataclass(frozen=True)
class Likelihood:
    """`total`: natural logarithm of the probability of what was asked for; `greedy`: every token is the likeliest."""

    total: float
    greedy: bool


class Likelihoods:
    """What is asked, planned once for one model after another.

    `requests`: token ids of contexts and continuations, cut on the left to `max_length` tokens as lm-eval cuts them.
    `share`: whether the model bears that what sequences begin with in common is evaluated once, and `reach`: up to
    which length. `worth`: the tokens of padding that a pass is worth.
    """

    def __init__(
        self,
        requests: Sequence[Encoded],
        *,
        max_length: int,
        share: bool,
        reach: Reach = UNBOUNDED,
        worth: int = WORTH,
    ) -> None:
        self._share, self._reach, self._worth = share, reach, worth
        self._cut = [((given + asked)[-(max_length + 1) :], len(asked)) for given, asked in requests]
        stops = list(accumulate(size for _, size in self._cut))
        self._places = [range(stop - size, stop) for stop, (_, size) in zip(stops, self._cut, strict=True)]
        self._plan: tuple[int, tuple[Batch, ...]] | None = None

    def ask(self, forward: Forward, allowance: Allowance) -> list[Likelihood]:
        """The answers, in the order of the requests. Raises MemoryError when no pass is small enough."""
        answers = self.blank(forward)

        def work(tokens: int) -> None:
            if bool(answers.there.any()):  # memory ran out: the rest, in smaller passes
                forward.run(self.batches(self.missing(answers), tokens, forward), answers)
                return
            if self._plan is None or self._plan[0] != tokens:
                self._plan = (tokens, self.batches(range(len(self._cut)), tokens, forward))
            forward.run(self._plan[1], answers)

        if self._cut:
            allowance.within(work)
        return self.read(answers)

    def blank(self, forward: Forward) -> Answers:
        """Room for the answers to all requests."""
        return Answers.of(self._places[-1].stop if self._places else 0, forward.device)

    def read(self, answers: Answers) -> list[Likelihood]:
        """The answers by request, once they are there."""
        totals, greedy = answers.logprob.tolist(), answers.greedy.tolist()
        return [Likelihood(sum(totals[p.start : p.stop]), all(greedy[p.start : p.stop])) for p in self._places]

    def missing(self, answers: Answers) -> list[int]:
        """The requests that are not wholly answered yet."""
        there = answers.there.tolist()
        return [index for index, places in enumerate(self._places) if not all(there[place] for place in places)]

    def batches(
        self, which: Sequence[int], tokens: int, forward: Forward, prompts: Sequence[Tokens] = ()
    ) -> tuple[Batch, ...]:
        """The batches for these requests, and for prompts to be continued, which end in them by their numbers.

        The last token of a request is only predicted, not given.
        """
        groups: list[list[int]] = [[], []]
        for index in which:
            size, longest = len(self._cut[index][0]), self._reach.shareable
            groups[self._share and (longest is None or size <= longest)].append(index)
        apart, together = groups
        batches: list[Batch] = []
        if together or prompts:
            inputs = list(dict.fromkeys([*(self._cut[index][0][:-1] for index in together), *prompts]))
            tree = token_tree(inputs, longest=tokens)
            batches += self._planned(
                tree, plan_passes(tree, limit=tokens, worth=self._worth), inputs, together, prompts, forward
            )
        if apart:
            inputs = list(dict.fromkeys(self._cut[index][0][:-1] for index in apart))
            tree = separate(inputs)
            longest = self._reach.rope or max(map(len, inputs))
            passes = plain_passes(tree, limit=tokens, together=longest, worth=self._worth)
            batches += self._planned(tree, passes, inputs, apart, (), forward)
        return tuple(batches)

    def _planned(
        self,
        tree: Tree,
        passes: Sequence[Pass],
        inputs: Sequence[Tokens],
        which: Sequence[int],
        prompts: Sequence[Tokens],
        forward: Forward,
    ) -> tuple[Batch, ...]:
        ends = dict(zip(inputs, tree.ends, strict=True))
        targets = [
            target
            for index in which
            for target in targets_of(tree, ends[self._cut[index][0][:-1]], self._cut[index][0], self._places[index])
        ]
        continued = {ends[prompt]: number for number, prompt in enumerate(prompts)}
        return batches_of(tree, passes, targets, continued, forward.device)


def targets_of(tree: Tree, end: int, sequence: Tokens, places: range) -> list[Target]:
    """The last tokens of the sequence, as many as there are places, each after the token before it."""
    targets = []
    path, position = list(tree.path(end)), len(sequence) - 2  # of the token that predicts the last one
    node = path.pop()
    for place in reversed(places):
        while position < tree.start[node]:
            node = path.pop()
        targets.append(Target(node, position - tree.start[node], sequence[position + 1], place))
        position -= 1
    return targets
