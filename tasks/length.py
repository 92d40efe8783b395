"""Which prompts are longer than the context, known before there is a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance

from tasks.prepared import Prepared
from tasks.spec import SetName

NEW_TOKENS = 256  # lm-eval's `max_gen_toks` where a task names none


def too_long(prepared: Prepared, tokenizer: Any, which: SetName, room: int) -> Mapping[str, tuple[int, int]]:
    """Per task, how many of the set's documents have a prompt that lm-eval cuts from the left, and how many there are.

    `room` is the context in tokens. Special tokens are not counted; `Scorer.truncated` is exact, with a model.
    """
    counts = {}
    for name, documents in prepared.requests(which).items():
        counts[name] = (sum(any(_cut(each, tokenizer, room) for each in one.instances) for one in documents),
                        len(documents))  # fmt: skip
    return counts


def _cut(instance: Instance, tokenizer: Any, room: int) -> bool:
    text = "".join(argument for argument in instance.args if isinstance(argument, str))
    if instance.request_type == "generate_until":
        room -= int(instance.args[1].get("max_gen_toks", NEW_TOKENS))
    elif instance.request_type == "loglikelihood":
        room += 1  # the last token is only predicted
    else:
        return False
    # No token stands for nothing, so a text of few characters need not be tokenised.
    return len(text.encode()) > room and len(tokenizer(text, add_special_tokens=False)["input_ids"]) > room
