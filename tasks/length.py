"""Which prompts are longer than the context, known before there is a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance

from tasks.errors import TaskError
from tasks.prepared import Prepared
from tasks.spec import SetName

NEW_TOKENS = 256  # lm-eval's `max_gen_toks` where a task names none
NEW_TOKENS_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # as lm-eval reads them


def too_long(prepared: Prepared, tokenizer: Any, which: SetName, room: int) -> Mapping[str, tuple[int, int]]:
    """Per task, how many of the set's documents have a prompt that lm-eval cuts from the left, and how many there are.

    `room` is the context in tokens. Special tokens are not counted.
    Raises TaskError for a task that may generate as many tokens as there is room for: lm-eval refuses it.
    """
    counts = {}
    for name, documents in prepared.requests(which).items():
        counts[name] = (sum(any(_cut(each, tokenizer, room) for each in one.instances) for one in documents),
                        len(documents))  # fmt: skip
    return counts


def new_tokens(settings: Mapping[str, Any]) -> int:
    """How many tokens a request with these generation_kwargs may generate."""
    return next((int(settings[key]) for key in NEW_TOKENS_KEYS if settings.get(key) is not None), NEW_TOKENS)


def _cut(instance: Instance, tokenizer: Any, room: int) -> bool:
    text = "".join(argument for argument in instance.args if isinstance(argument, str))
    if instance.request_type == "generate_until":
        new = new_tokens(instance.args[1])
        if new >= room:
            raise TaskError(
                f"task {instance.task_name!r}: generates up to {new} tokens, but the context has room for {room}; "
                "raise score.max_length, or lower max_gen_toks in the task's generation_kwargs"
            )
        room -= new
    elif instance.request_type == "loglikelihood":
        room += 1  # the last token is only predicted
    else:
        return False
    # No token stands for nothing, so a text of few characters need not be tokenised.
    return len(text.encode()) > room and len(tokenizer(text, add_special_tokens=False)["input_ids"]) > room
