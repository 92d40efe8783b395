"""Which prompts are longer than the context, known before there is a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance

from tasks.encoding import Encoded
from tasks.errors import TaskError
from tasks.prepared import Prepared
from tasks.prompts import DocumentRequests
from tasks.spec import SetName

NEW_TOKENS = 256  # lm-eval's `max_gen_toks` where a task names none
NEW_TOKENS_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # as lm-eval reads them


def too_long(prepared: Prepared, which: SetName, room: int) -> Mapping[str, tuple[int, int]]:
    """Per task, how many of the set's documents have a prompt that lm-eval cuts from the left, and how many there are.

    `room` is the context in tokens; special tokens count. Raises TaskError for what lm-eval refuses: an answer that is
    longer than the context, and a task that may generate as many tokens as there is room for.
    """
    return {
        name: (sum(_any_cut(one, room) for one in documents), len(documents))
        for name, documents in prepared.requests(which).items()
    }


def new_tokens(settings: Mapping[str, Any]) -> int:
    """How many tokens a request with these generation_kwargs may generate."""
    return next((int(settings[key]) for key in NEW_TOKENS_KEYS if settings.get(key) is not None), NEW_TOKENS)


def _any_cut(one: DocumentRequests, room: int) -> bool:
    cuts = [_cut(instance, encoded, room) for instance, encoded in zip(one.instances, one.encoded, strict=True)]
    return any(cuts)


def _cut(instance: Instance, encoded: Encoded, room: int) -> bool:
    given, asked = map(len, encoded)
    if instance.request_type == "generate_until":
        new = new_tokens(instance.args[1])
        if new >= room:
            raise TaskError(
                f"task {instance.task_name!r}: generates up to {new} tokens, but the context has room for {room}; "
                "raise score.max_length, or lower max_gen_toks in the task's generation_kwargs"
            )
        return given > room - new
    if instance.request_type == "loglikelihood":
        if asked > room:
            raise TaskError(
                f"task {instance.task_name!r}: document {instance.doc_id}: an answer has {asked} tokens, the context "
                f"room for {room}; raise score.max_length, or leave the document out"
            )
        return given + asked > room + 1  # the last token is only predicted
    return False  # whole texts are taken in windows
