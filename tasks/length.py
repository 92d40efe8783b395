"""How long the context is, and which prompts are longer, known before there is a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import resolve_max_length

from tasks.encoding import Encoded
from tasks.errors import TaskError
from tasks.gen_settings import new_tokens
from tasks.prepared import Prepared
from tasks.prompts import DocumentRequests
from tasks.spec import SetName

# Settings of models whose positions are no table of a fixed length.
ENDLESS = ("rope_parameters", "rope_scaling", "relative_attention_num_buckets", "alibi")


def too_long(prepared: Prepared, which: SetName, room: int) -> Mapping[str, tuple[int, int]]:
    """Per task, how many of the set's documents have a prompt that lm-eval cuts from the left, and how many there are.

    `room` is the context in tokens; special tokens count. Raises TaskError for what lm-eval refuses: an answer that is
    longer than the context, and a task that may generate as many tokens as there is room for.
    """
    return {
        name: (sum(_any_cut(one, room) for one in documents), len(documents))
        for name, documents in prepared.requests(which).items()
    }


def context_length(config: Any, tokenizer: Any) -> int:
    """The context in tokens of a model with this configuration of transformers, as lm-eval finds it."""
    return int(resolve_max_length(config, tokenizer))


def check_positions(config: Any, max_length: int | None) -> None:
    """Raises TaskError for a context of more tokens than the model has positions.

    Rotary and relative positions go on behind those that the model was trained with, and lm-eval lets them.
    """
    text = config.get_text_config(decoder=True)
    if any(getattr(text, name, None) for name in ENDLESS):
        return
    own = resolve_max_length(text, default=0)
    if max_length is not None and 0 < own < max_length:
        raise TaskError(f"max_length: {max_length}, but the model has positions for {own} tokens; give {own} or less")


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
                "raise max_length, or lower max_gen_toks in the task's generation_kwargs"
            )
        return given > room - new
    if instance.request_type == "loglikelihood":
        if asked > room:
            raise TaskError(
                f"task {instance.task_name!r}: document {instance.doc_id}: an answer has {asked} tokens, the context "
                f"room for {room}; raise max_length, or leave the document out"
            )
        return given + asked > room + 1  # the last token is only predicted
    return False  # whole texts are taken in windows
