"""What is asked for: which tasks, how many documents of each, and how prompts are put."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.errors import TaskError, raise_all

BATCH_TOKENS = 4096  # tokens in one forward pass unless asked otherwise: more is no faster on a CPU
SMALLEST = 32  # tokens in a forward pass below which no more memory would be saved

SetName = Literal["search", "selection", "report", "all"]  # all: every document, where nothing is split
SETS: tuple[SetName, ...] = ("search", "selection", "report")


@dataclass(frozen=True)
class TaskSpec:
    """One task, or a group or tag of them, of the objective.

    `metric` is named as lm-eval names it, `acc` or `exact_match,strict-match`; without a filter, `none` is
    meant if the task has it, else its first. None, which a search refuses, is the task's first. `weight` is the
    task's share of the objective (they need not sum to one). `num_fewshot` overrides the task's own, as lm-eval's
    `--num_fewshot` does.
    """

    task: str
    metric: str | None = None
    weight: float = 1.0
    num_fewshot: int | None = None


@dataclass(frozen=True)
class Sizes:
    """Documents per task in each of the three disjoint sets."""

    search: int
    selection: int
    report: int

    @property
    def total(self) -> int:
        return self.search + self.selection + self.report


@dataclass(frozen=True)
class PromptSettings:
    """How documents become prompts: the options of the same names of `lm_eval`; `max_length` in tokens.

    `gen_kwargs` update the generation_kwargs of every generate_until task.
    """

    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    max_length: int | None = None
    gen_kwargs: Mapping[str, Any] | None = None


def check_specs(specs: Sequence[TaskSpec]) -> None:
    """Raise TaskError for values that no task could satisfy: all of them at once."""
    raise_all(_spec_problems(specs))


def check_search(specs: Sequence[TaskSpec], sizes: Sizes) -> None:
    """`check_specs`, and what a search needs beside: a metric for each task, and sizes."""
    problems = _spec_problems(specs)
    for spec in specs:
        if not spec.metric:
            problems.append(TaskError(f"task {spec.task!r}: no metric is named; name the one that is to be maximised"))
    for name in SETS:
        if getattr(sizes, name) < 0:
            problems.append(TaskError(f"documents.{name}: {getattr(sizes, name)}; give 0 or more"))
    raise_all(problems)


def _spec_problems(specs: Sequence[TaskSpec]) -> list[TaskError]:
    problems: list[TaskError] = []
    if not specs:
        problems.append(TaskError("tasks: none given; name at least one task"))
    names = [spec.task for spec in specs]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.append(TaskError(f"task {name!r}: named {names.count(name)} times; name each task once"))
    for spec in specs:
        if not math.isfinite(spec.weight) or spec.weight < 0:
            advice = "give 0 or more (metrics where lower is better are turned round by themselves)"
            problems.append(TaskError(f"task {spec.task!r}: weight is {spec.weight}; {advice}"))
        if spec.num_fewshot is not None and spec.num_fewshot < 0:
            problems.append(TaskError(f"task {spec.task!r}: num_fewshot is {spec.num_fewshot}; give 0 or more"))
    if specs and not sum(spec.weight for spec in specs) > 0:
        problems.append(TaskError("tasks: all weights are 0; give at least one task a weight above 0"))
    return problems
