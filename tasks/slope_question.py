"""One document as a function that can be climbed: what is asked of it, and how well that is answered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.encoding import Encoded, Encoder
from tasks.objective import Goal, Objective
from tasks.prompts import DocumentRequests

ROLLING = "loglikelihood_rolling"
CHANCES = ("acc", "acc_norm", "exact_match")  # metrics that are the chance of a right answer, drawn instead of chosen
LONG = 16  # tokens: a longer answer's probability is taken as if it were of so many, or nothing would be left to climb


@dataclass(frozen=True)
class Question:
    """What is asked of a document: `requests`, of which those marked `right` are right, and their lengths.

    `sizes`: what choices are divided by before they are compared (1 for all but acc_norm). `lengths`: in the
    objective's unit; `parts`: how much of the value is the chance, and how much the log-likelihood. `rolling`: the
    requests are one text's windows, all of them right.
    """

    task: str
    document: int
    requests: tuple[Encoded, ...]
    right: tuple[bool, ...]
    sizes: tuple[float, ...]
    lengths: tuple[int, ...]
    parts: tuple[float, float]
    rolling: bool = False

    def value(self, totals: Sequence[float]) -> tuple[float, list[float]]:
        """The value, and its derivative by the log-likelihood of every request."""
        chance, likely = self.parts
        value, slopes = 0.0, [0.0] * len(totals)
        for part, (own, derivatives) in ((chance, self._chance(totals)), (likely, self._likely(totals))):
            value += part * own if part else 0.0
            slopes = [slope + part * each for slope, each in zip(slopes, derivatives, strict=True)]
        return value, slopes

    def _likely(self, totals: Sequence[float]) -> tuple[float, list[float]]:
        """The likeliest right answer's log-likelihood per unit of length, as the objective has it."""
        if self.rolling:
            length = max(1, sum(self.lengths))
            return math.fsum(totals) / length, [1 / length] * len(totals)
        best = max((i for i, right in enumerate(self.right) if right), key=lambda i: totals[i])
        length = max(1, self.lengths[best])
        return totals[best] / length, [(i == best) / length for i in range(len(totals))]

    def _chance(self, totals: Sequence[float]) -> tuple[float, list[float]]:
        """The share of the right choices, or where all answers are right ones, their probability."""
        if all(self.right):
            scales = [min(1.0, LONG / max(1, len(asked))) for _, asked in self.requests]
            shares = [math.exp(scale * total) for scale, total in zip(scales, totals, strict=True)]
            return math.fsum(shares), [scale * share for scale, share in zip(scales, shares, strict=True)]
        middle = math.fsum(self.sizes) / len(self.sizes)
        scales = [middle / size for size in self.sizes]
        scaled = [scale * total for scale, total in zip(scales, totals, strict=True)]
        powers = [math.exp(each - max(scaled)) for each in scaled]
        shares = [power / math.fsum(powers) for power in powers]
        chance = math.fsum(share for share, right in zip(shares, self.right, strict=True) if right)
        return chance, [
            scale * share * (right - chance) for scale, share, right in zip(scales, shares, self.right, strict=True)
        ]


def question_of(
    goal: Goal, each: DocumentRequests, objective: Objective, encoder: Encoder, max_length: int
) -> Question | None:
    """What to climb of a document; None where it has no right answer for which the context has room."""
    bytewise = objective.unit == "byte"
    if [instance.request_type for instance in each.instances] == [ROLLING]:
        windows = encoder.windows(each.encoded[0][1], max_length)
        length = len(each.instances[0].args[0].encode()) if bytewise else len(each.encoded[0][1])
        count, blank = len(windows), (0,) * (len(windows) - 1)
        return Question(
            goal.task, each.id, tuple(windows), (True,) * count, (1.0,) * count, (length, *blank), (0.0, 1.0), True
        )
    golds = {gold.encoded: gold.bytes if bytewise else len(gold.encoded[1]) for gold in each.gold}
    golds = {gold: length for gold, length in golds.items() if gold[0] and 0 < len(gold[1]) <= max_length}
    if not golds:
        return None
    parts = parts_of(goal, objective)
    requests = list(golds)
    sizes = dict.fromkeys(golds, 1.0)
    if parts[0] and len(each.instances) > 1 and each.instances[0].request_type == "loglikelihood":
        for instance, encoded in zip(each.instances, each.encoded, strict=True):
            # A choice that has no room, or asks the same as another, has no share of its own.
            if encoded[0] and 0 < len(encoded[1]) <= max_length:
                sizes[encoded] = max(1, len(instance.args[1])) if metric_of(goal) == "acc_norm" else 1.0
                requests += [] if encoded in requests else [encoded]
    return Question(
        goal.task,
        each.id,
        tuple(requests),
        tuple(request in golds for request in requests),
        tuple(sizes[request] for request in requests),
        tuple(golds.get(request, 0) for request in requests),
        parts,
    )


def parts_of(goal: Goal, objective: Objective) -> tuple[float, float]:
    """How much of a document's value is the chance and how much the log-likelihood: as the objective shares them."""
    if metric_of(goal) not in CHANCES or not goal.higher_is_better:
        return 0.0, 1.0
    return objective.metric, objective.loglikelihood


def metric_of(goal: Goal) -> str:
    return goal.measure.split(",")[0]
