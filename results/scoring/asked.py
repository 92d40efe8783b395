"""What is compared: requests as sent, the answers to them, and the measures of each document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompting:
    """How tasks are put: few-shot examples (where the task's file does not fix them at 0), and a chat template."""

    shots: int = 0
    chat: bool = False

    def __str__(self) -> str:
        return f"{self.shots}-shot{', chat' if self.chat else ''}"


@dataclass(frozen=True)
class Request:
    """`arguments` as lm-eval's instance has them; `answer`: (log-likelihood, greedy), log-likelihood, or text; `tokens`
    whose log-likelihoods are summed in it, where known."""

    arguments: tuple[Any, ...]
    answer: Any
    tokens: int = 0

    @property
    def loglikelihood(self) -> float | None:
        answer = self.answer[0] if isinstance(self.answer, tuple | list) else self.answer
        return None if isinstance(answer, str) else float(answer)

    @property
    def text(self) -> str | None:
        return self.answer if isinstance(self.answer, str) else None


@dataclass(frozen=True)
class Answers:
    """Of one task: document id -> its requests in order; "metric,filter" -> document id -> value (or pair's parts)."""

    requests: dict[int, list[Request]]
    measures: dict[str, dict[int, float]]


Scored = dict[str, Answers]
