"""The gradient of how well documents are answered: passes forward and backward over them, a batch at a time.

An accuracy has no gradient, and the log-likelihood of right answers climbs where no answer changes: it is ruled by the
documents that are answered worst. So for accuracies and exact matches the chance is climbed that the answer is right
when it is drawn as the model would have it: of choices the right one's share, of text the right one's probability.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
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
from tasks.passes import WORTH
from tasks.prepared import Prepared
from tasks.reach import reach_of
from tasks.slope_question import Question, question_of
from tasks.spec import SetName

Gathering = Callable[[], AbstractContextManager[None]]
HELD = 4  # times as much as in scoring is held of a token on its way forward and back
PASS = 512  # tokens of padding that a pass is worth: each hands back a gradient of every weight


class Slope:
    """A model in memory, and the documents that are to be answered better.

    `share`: whether the model bears that what requests begin with in common is evaluated once. `batch_tokens`: tokens
    in one pass, at most, padding included; fewer when memory runs out. What a pass holds for the way back is several
    times what scoring holds.
    """

    def __init__(
        self,
        prepared: Prepared,
        model: torch.nn.Module,
        tokenizer: Any,
        objective: Objective,
        *,
        share: bool,
        batch_tokens: int,
    ) -> None:
        self._prepared, self._objective, self._share = prepared, objective, share
        self._forward, self._allowance = Forward(model), Allowance(batch_tokens)
        self._max_length = prepared.prompt.max_length or context_length(self._forward.model.config, tokenizer)
        self._reach, self._encoder = reach_of(model), Encoder(tokenizer)

    def climb(
        self, which: SetName, only: Mapping[str, Collection[int]] | None, gathering: Gathering
    ) -> tuple[float, int]:
        """How well some documents are answered, and how many there are; its gradient goes backward.

        That is the mean over tasks, by their weights, of the means over documents of `Question.value`; documents
        without right answers take no part. Every backward pass runs inside of one `gathering()`, which is left by an
        exception where the pass has to be done again: what was gathered in it must then be forgotten. The gradients of
        all passes add up to that of the value.

        Raises TaskError where no document has a right answer, NotFinite for NaN, MemoryError when no pass is small
        enough.
        """
        questions = self._questions(which, only)
        if not questions:
            raise TaskError("no task has right answers that could be made likelier; search without slopes")
        answered = Answered(questions, document_weights(questions, self._objective.weights), self._forward.device)
        requests = [request for question in questions for request in question.requests]
        together, apart = (self._planned(requests, share=share, worth=PASS) for share in (True, False))
        answers = apart.blank(self._forward)

        def work(tokens: int) -> None:
            missing = apart.missing(answers)
            batches = together.batches(missing, tokens, self._forward)
            if any(batch.trunk or batch.kept for batch in batches):  # graphs of several passes would hang together
                batches = apart.batches(missing, tokens, self._forward)
            for number in answered.split(batches):
                own = self._planned(questions[number].requests, share=True)
                answered.learn(number, [each.total for each in own.ask(self._forward, self._allowance)])
            for batch in batches:
                with gathering():
                    answered.objective_of(batch, self._logprob(batch)).backward()  # type: ignore[no-untyped-call]
                answers.there[batch.place] = True

        self._allowance.within(work)
        return answered.value, len(questions)

    def _questions(self, which: SetName, only: Mapping[str, Collection[int]] | None) -> list[Question]:
        goals = {goal.task: goal for goal in self._objective.goals if goal.weight > 0}
        asked = [
            question_of(goals[task], each, self._objective, self._encoder, self._max_length)
            for task, documents in self._prepared.requests(which).items()
            if task in goals
            for each in documents
            if only is None or each.id in only.get(task, ())
        ]
        return [question for question in asked if question is not None]

    def _planned(self, requests: Sequence[Encoded], *, share: bool, worth: int = WORTH) -> Likelihoods:
        share = share and self._share
        return Likelihoods(requests, max_length=self._max_length, share=share, reach=self._reach, worth=worth)

    def _logprob(self, batch: Batch) -> torch.Tensor:
        """By wanted answer, the log-probability of its token in float32, with what leads back from it.

        Where rows are single sequences they are padded on the right, where no token that counts attends to padding.
        """
        keywords: dict[str, Any] = {}
        if batch.allowed is not None:
            keywords = {"attention_mask": self._forward.mask(batch, 0), "position_ids": batch.positions}
        with torch.enable_grad(), self._forward.head_at(batch.hidden) as narrowed:
            logits = self._forward.model(input_ids=batch.tokens, use_cache=False, **keywords).logits.flatten(0, 1)
        logits = logits if narrowed else logits[batch.hidden]
        chosen: torch.Tensor = torch.log_softmax(logits, dim=-1, dtype=torch.float32)[batch.of, batch.token]
        return chosen


class Answered:
    """What the answers to questions add up to. `weights`: of the questions.

    Requests are numbered through all questions, and so are the tokens of their answers (`Batch.place`).
    """

    def __init__(self, questions: Sequence[Question], weights: Sequence[float], device: torch.device) -> None:
        self._questions, self._weights = questions, weights
        sizes = [[len(answer) for _, answer in question.requests] for question in questions]
        self._sizes = [torch.tensor(own) for own in sizes]
        counts = torch.tensor([sum(own) for own in sizes])
        self._first = (counts.cumsum(0) - counts).tolist()
        self._question = torch.arange(len(questions)).repeat_interleave(counts)
        self._factors = torch.zeros(len(self._question), device=device)  # derivatives of the value by log-probabilities
        self._values: dict[int, float] = {}

    @property
    def value(self) -> float:
        return math.fsum(self._values.values())

    def split(self, batches: Sequence[Batch]) -> list[int]:
        """The questions that several batches answer, of which nothing is known yet: their derivatives have to be known
        before the first of these goes backward."""
        there = [set(self._question[batch.place.cpu()].tolist()) for batch in batches]
        counts = Counter(number for own in there for number in own)
        return [number for number, count in counts.items() if count > 1 and number not in self._values]

    def learn(self, number: int, totals: Sequence[float]) -> None:
        """Take the log-likelihoods of a question's requests. Raises NotFinite."""
        question, weight = self._questions[number], self._weights[number]
        if not all(map(math.isfinite, totals)):
            raise not_finite(question.task, question.document, "log-probability of an answer")
        value, slopes = question.value(totals)
        self._values[number] = weight * value
        own = torch.tensor(slopes, dtype=torch.float32).repeat_interleave(self._sizes[number]) * weight
        self._factors[self._first[number] : self._first[number] + len(own)] = own

    def objective_of(self, batch: Batch, logprob: torch.Tensor) -> torch.Tensor:
        """What has the gradient that the batch adds to the value's. `logprob`: by answer of the batch."""
        found = torch.zeros(len(self._question), dtype=torch.float64)
        places = batch.place.cpu()
        found[places] = logprob.detach().double().cpu()
        for number in dict.fromkeys(self._question[places].tolist()):
            if number not in self._values:
                first, sizes = self._first[number], self._sizes[number]
                parts = torch.split(found[first : first + int(sizes.sum())], sizes.tolist())
                self.learn(number, [float(part.sum()) for part in parts])
        return (logprob * self._factors[batch.place]).sum()


def document_weights(questions: Sequence[Question], tasks: Mapping[str, float]) -> list[float]:
    """What a document counts in the mean over tasks of means over documents; these sum to one."""
    counts: dict[str, int] = {}
    for question in questions:
        counts[question.task] = counts.get(question.task, 0) + 1
    total = math.fsum(tasks[task] for task in counts)
    return [tasks[question.task] / total / counts[question.task] for question in questions]
