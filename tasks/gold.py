"""Which answers to a document are right, as text that the model could have given: for their log-likelihood.

The rules are those of `ConfigurableTask.process_results` (what counts as right) and of `construct_requests` (how an
answer is joined to its prompt). A task that judges by a function of its own may mean anything by its target: where that
is no answer, there is none, and the task is scored by its metric alone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.api.utils import ends_with_whitespace

from tasks.encoding import Encoded, Encoder
from tasks.errors import TaskError

Pair = tuple[str, str]


@dataclass(frozen=True)
class Gold:
    """One right answer: `encoded` are the token ids of both parts, `bytes` the length of the answer's UTF-8 without
    leading space."""

    context: str
    continuation: str
    encoded: Encoded
    bytes: int


def find_gold(
    task: ConfigurableTask, document: Any, instances: Sequence[Instance], *, chat: bool, encoder: Encoder
) -> tuple[Gold, ...]:
    """The document's right answers, each once; none where it has none, and for rolling log-likelihoods.

    `instances` are the document's requests in the order of their `idx`, `chat`: whether a chat template was applied.
    Raises TaskError for choices that are empty and for a right answer that is not among the choices.
    """
    kind = task.OUTPUT_TYPE
    pairs: list[Pair] = []
    if kind == "loglikelihood":
        pairs = [(each.args[0], each.args[1]) for each in instances]
    elif kind == "multiple_choice":
        pairs = [(each.args[0], each.args[1]) for each in _right_choices(task, document, instances)]
    elif kind == "generate_until":
        delimiter = target_delimiter(task, chat=chat)
        pairs = [(instances[0].args[0], delimiter + text) for text in _right_texts(task, document)]
    return tuple(
        Gold(context, continuation, encoder.pair(context, continuation), len(continuation.lstrip().encode()))
        for context, continuation in dict.fromkeys(pairs)
    )


def target_delimiter(task: ConfigurableTask, *, chat: bool) -> str:
    """What stands between a prompt and its answer: nothing after a chat template, as lm-eval has it."""
    prefix = task.config.gen_prefix
    if chat and not (prefix and not ends_with_whitespace(prefix)):
        return ""
    return str(task.config.target_delimiter)


def _right_choices(task: ConfigurableTask, document: Any, instances: Sequence[Instance]) -> list[Instance]:
    choices = task.doc_to_choice(document)
    if not choices:
        raise TaskError("it has no choices; see the task's doc_to_choice, or leave the document out")
    for number, choice in enumerate(choices):
        if not choice:
            raise TaskError(f"choice {number} is empty; see the task's doc_to_choice, or leave the document out")
    target = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    own_judge = callable(task.config.process_results)  # may take the target for something else
    found = []
    for gold in target if isinstance(target, (list, tuple)) else [target]:
        position = _position(gold, choices)
        if position is None or not 0 <= position < len(choices):
            if own_judge:
                return []
            raise _no_choice(gold, choices)
        found.append(instances[position])
    return found


def _position(gold: Any, choices: Sequence[str]) -> int | None:
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else None
    try:
        return int(operator.index(gold))
    except TypeError:
        return None


def _right_texts(task: ConfigurableTask, document: Any) -> list[str]:
    if isinstance(task.config.doc_to_target, int):
        return []  # a placeholder: no document's answer is the same number for all
    target = task.doc_to_target(document)
    if task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(document)
        position = _position(target, choices)
        if position is None or not 0 <= position < len(choices):
            if callable(task.config.process_results):
                return []
            raise _no_choice(target, choices)
        target = choices[position]
    options = target if isinstance(target, (list, tuple)) else [target]
    return [str(option) for option in options if isinstance(option, (str, int, float)) and str(option)]


def _no_choice(gold: Any, choices: Sequence[str]) -> TaskError:
    text = repr(gold)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return TaskError(
        f"the right answer is {shown}, which is none of its {len(choices)} choices (the first is 0); "
        "see the task's doc_to_target"
    )
