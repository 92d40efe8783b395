"""Token ids of requests, made by lm-eval's own code without a model."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

Encoded = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of what is given and of what is asked for

REMEMBERED = 4096  # texts whose ids are kept: the choices of a document share its context


class Encoder(HFLM):  # type: ignore[misc]
    """`HFLM`'s way from text to token ids, for decoder-only models, with the defaults of its `add_bos_token` and
    `prefix_token_id`."""

    def __init__(self, tokenizer: Any) -> None:
        # HFLM's own __init__ wants a model, of which these methods use nothing.
        self.tokenizer = tokenizer
        self.backend = "causal"
        self.add_bos_token = None
        self.custom_prefix_token_id = None
        self._ids = lru_cache(REMEMBERED)(self._ids_of)

    def encode(self, instance: Instance) -> Encoded:
        """The ids of one request, not yet cut to the model's length.

        loglikelihood: (context, continuation). generate_until: (context, ()). loglikelihood_rolling: ((), text).
        """
        if instance.request_type == "loglikelihood":
            return self.pair(*instance.args)
        if instance.request_type == "loglikelihood_rolling":
            return (), tuple(self.tok_encode(instance.args[0]))
        return self._prompt(instance.args[0]), ()

    def pair(self, context: str, continuation: str) -> Encoded:
        """As `TemplateLM.loglikelihood` encodes: an empty context becomes the prefix token."""
        if context:
            given, asked = self._encode_pair(context, continuation)
            return tuple(given), tuple(asked)
        ids = tuple(self.tok_encode(continuation, add_special_tokens=False))
        return (ids[:1], ids[1:]) if ids[:1] == (self.prefix_token_id,) else ((self.prefix_token_id,), ids)

    def windows(self, ids: tuple[int, ...], max_length: int) -> list[Encoded]:
        """The parts in which `loglikelihood_rolling` scores a text of these ids, each token once."""
        rolling = get_rolling_token_windows(
            token_list=list(ids), prefix_token=self.prefix_token_id, max_seq_len=max_length, context_len=1
        )
        return [(tuple(given), tuple(asked)) for given, asked in map(make_disjoint_window, rolling)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **keywords: Any) -> list[int]:
        return list(self._ids(string, add_special_tokens, **keywords))

    def _ids_of(self, string: str, add_special_tokens: bool | None, **keywords: Any) -> tuple[int, ...]:
        return tuple(super().tok_encode(string, add_special_tokens, **keywords))

    def _prompt(self, text: str) -> tuple[int, ...]:
        """As `tok_batch_encode` encodes a batch, without its padding, for which not every tokenizer has a token."""
        begun = has_bos_prefix(text, getattr(self.tokenizer, "bos_token", None))
        return tuple(self.tokenizer(text, **({"add_special_tokens": False} if begun else {}))["input_ids"])
