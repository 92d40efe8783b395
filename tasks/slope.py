"""The gradient of the right answers' log-likelihood: passes forward and backward over documents, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from tasks.batch import Batch
from tasks.encoding import Encoded, Encoder
from tasks.errors import TaskError, not_finite
from tasks.forward import Forward
from tasks.length import context_length
from tasks.likelihood import Likelihoods
from tasks.memory import Allowance
from tasks.objective import Objective
from tasks.prepared import Prepared
from tasks.prompts import DocumentRequests
from tasks.reach import reach_of
from tasks.spec import SetName

ROLLING = "loglikelihood_rolling"
Gathering = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Answer:
    """A right answer to a document: the windows in which it is asked, and its length in the objective's unit."""

    task: str
    document: int
    windows: tuple[Encoded, ...]
    length: int


class Slope:
    """A model in memory, and the documents whose right answers are to become likelier.

    `batch_tokens`: tokens in one pass, at most, padding included; fewer when memory runs out. What a pass holds for the
    way back is several times what scoring holds.
    """

    def __init__(
        self, prepared: Prepared, model: torch.nn.Module, tokenizer: Any, objective: Objective, *, batch_tokens: int
    ) -> None:
        self._prepared, self._objective = prepared, objective
        self._forward, self._allowance = Forward(model), Allowance(batch_tokens)
        self._max_length = prepared.prompt.max_length or context_length(self._forward.model.config, tokenizer)
        self._reach, self._encoder = reach_of(model), Encoder(tokenizer)

    def climb(
        self, which: SetName, only: Mapping[str, Collection[int]] | None, gathering: Gathering
    ) -> tuple[float, int]:
        """The objective's log-likelihood of some documents and how many there are; its gradient goes backward.

        That is the mean over tasks, by their weights, of the means over documents of the likeliest right answer's
        log-likelihood per unit of length; tasks without right answers take no part. Every backward pass runs inside of
        one `gathering()`, which is left by an exception where the pass has to be done again: what was gathered in it
        must then be forgotten. The gradients of all passes add up to that of the value.

        Raises TaskError where no document has a right answer, NotFinite for NaN, MemoryError when no pass is small
        enough.
        """
        answers = [self._likeliest(each) for each in self._answers(which, only)]
        if not answers:
            raise TaskError("no task has right answers whose log-likelihood could be raised; search without slopes")
        weights = document_weights(answers, self._objective.weights)
        requests: list[Encoded] = []
        factors: list[float] = []
        for answer, weight in zip(answers, weights, strict=True):
            requests += answer.windows
            factors += [weight / max(1, answer.length)] * len(answer.windows)
        totals = self._backward(requests, factors, gathering)
        self._check(answers, totals)
        return math.fsum(factor * total for factor, total in zip(factors, totals, strict=True)), len(answers)

    def _answers(self, which: SetName, only: Mapping[str, Collection[int]] | None) -> list[list[Answer]]:
        """By document that has any: its right answers, as far as the context has room for them."""
        weights = self._objective.weights
        return [
            found
            for task, documents in self._prepared.requests(which).items()
            if weights.get(task, 0.0) > 0
            for each in documents
            if (only is None or each.id in only.get(task, ())) and (found := self._of(task, each))
        ]

    def _of(self, task: str, each: DocumentRequests) -> list[Answer]:
        bytewise = self._objective.unit == "byte"
        if [instance.request_type for instance in each.instances] == [ROLLING]:
            ids = each.encoded[0][1]
            length = len(each.instances[0].args[0].encode()) if bytewise else len(ids)
            return [Answer(task, each.id, tuple(self._encoder.windows(ids, self._max_length)), length)]
        fitting = [gold for gold in each.gold if gold.encoded[0] and 0 < len(gold.encoded[1]) <= self._max_length]
        return [
            Answer(task, each.id, (gold.encoded,), gold.bytes if bytewise else len(gold.encoded[1])) for gold in fitting
        ]

    def _likeliest(self, answers: Sequence[Answer]) -> Answer:
        """The answer that the objective counts, found by scoring them where there are several."""
        if len(answers) == 1:
            return answers[0]
        asked = self._planned([answer.windows[0] for answer in answers]).ask(self._forward, self._allowance)
        return answers[max(range(len(answers)), key=lambda place: asked[place].total)]

    def _planned(self, requests: Sequence[Encoded]) -> Likelihoods:
        return Likelihoods(requests, max_length=self._max_length, share=False, reach=self._reach)

    def _backward(self, requests: Sequence[Encoded], factors: Sequence[float], gathering: Gathering) -> list[float]:
        """The log-likelihood of each request; the gradient of their sum by these factors goes backward."""
        planned = self._planned(requests)
        answers = planned.blank(self._forward)
        by_place = torch.tensor(
            [factor for factor, (_, asked) in zip(factors, requests, strict=True) for _ in asked],
            device=self._forward.device,
        )

        def work(tokens: int) -> None:
            for batch in planned.batches(planned.missing(answers), tokens, self._forward):
                with gathering():
                    logprob = self._logprob(batch)
                    (logprob * by_place[batch.place]).sum().backward()  # type: ignore[no-untyped-call]
                answers.logprob[batch.place] = logprob.detach()
                answers.there[batch.place] = True

        self._allowance.within(work)
        return [each.total for each in planned.read(answers)]

    def _logprob(self, batch: Batch) -> torch.Tensor:
        """By wanted answer, the log-probability of its token in float32, with what leads back from it.

        Rows are single sequences, padded on the right, where no token that counts attends to padding.
        """
        with torch.enable_grad(), self._forward.head_at(batch.hidden) as narrowed:
            logits = self._forward.model(input_ids=batch.tokens, use_cache=False).logits.flatten(0, 1)
        logits = logits if narrowed else logits[batch.hidden]
        chosen: torch.Tensor = torch.log_softmax(logits, dim=-1, dtype=torch.float32)[batch.of, batch.token]
        return chosen

    def _check(self, answers: Sequence[Answer], totals: Sequence[float]) -> None:
        asked = iter(totals)
        for answer in answers:
            if any(not math.isfinite(next(asked)) for _ in answer.windows):
                raise not_finite(answer.task, answer.document, "log-probability of the right answer")


def document_weights(answers: Sequence[Answer], tasks: Mapping[str, float]) -> list[float]:
    """What a document counts in the mean over tasks of means over documents; these sum to one."""
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer.task] = counts.get(answer.task, 0) + 1
    total = math.fsum(tasks[task] for task in counts)
    return [tasks[answer.task] / total / counts[answer.task] for answer in answers]
