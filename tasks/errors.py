"""Everything that `tasks` raises for a cause the user can mend.

    TaskError                 the root; evolve prints its message and exits with 2
    ├── UnknownTask           no lm-eval task of that name
    ├── UnknownMetric         the task has no such metric or filter, or its aggregation is not the mean
    ├── TooFewDocuments       the three sets do not fit into the task's documents
    ├── BenchmarkRefused      a public benchmark's evaluation set, without `allow_benchmarks: true`
    └── NotFinite             the model's log-probabilities or a metric are NaN: the candidate is broken

Messages are one line each: *where: what, with the value; what to do*.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TaskError(Exception):
    """Something about the tasks, their documents or their scores that the user can mend."""


class UnknownTask(TaskError):
    """No lm-eval task of that name in the include folders or among lm-eval's own."""


class UnknownMetric(TaskError):
    """The metric is not one of the task's, or it is not a mean over documents."""


class TooFewDocuments(TaskError):
    """Search, selection and report sets (and reserved few-shot examples) do not fit."""


class BenchmarkRefused(TaskError):
    """The task is a public benchmark's evaluation set, and that was not allowed."""


class NotFinite(TaskError):
    """NaN where a score should be: the candidate is broken, not the task."""


def not_finite(task: str | None, document: int | None, what: str) -> NotFinite:
    """The error for a `log-probability` or other number of a document that is NaN."""
    return NotFinite(
        f"task {task!r}: document {document}: the {what} is NaN; the model's weights overflow or are not finite"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x' or 'y'?` for the names closest to `name`, or nothing when none is close."""
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def raise_all(problems: Sequence[TaskError]) -> None:
    """Raise nothing, the only problem, or one error that has every message on a line of its own.

    The error of several problems has their class if all are of one class, else `TaskError`.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        first = type(problems[0])
        kind = first if all(type(problem) is first for problem in problems) else TaskError
        raise kind("\n".join(map(str, problems)))


def is_panic(error: BaseException) -> bool:
    """Whether Rust code gave up, as tokenizers does on a regular expression of a tokenizer.json that backtracks for
    ever: an exception that is no Exception, of a class that cannot be imported."""
    return type(error).__name__ == "PanicException"
