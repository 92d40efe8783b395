"""lm-eval's HFLM around a model that stays in memory while its weights change.

The answers are HFLM's own, bit for bit; what is added around it: token ids are looked up instead of made
again, forward passes are timed, nothing is printed, and NaN during generation is noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from tasks.loglikelihood import Batch, Encoded, plan_batches, run_batches


class LanguageModel(HFLM):  # type: ignore[misc]
    """`HFLM(pretrained=model)` with log-softmax in float32, remembering the token ids of every prompt.

    `seconds` is the time spent in the model since `reset`: forward passes, and generation as a whole (the
    loop over new tokens is transformers' own). On a GPU, work that is still queued when a call returns is
    not in it. `nan_seen` tells whether a generation step since `reset` had NaN logits.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, *, batch_size: int, max_length: int | None = None
    ) -> None:
        self._encoded: dict[Any, list[int]] = {}
        self._batches: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
        self._plans: dict[Any, tuple[tuple[Batch, ...], Any]] = {}
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            softmax_dtype="float32",
        )
        self.reset()

    def reset(self) -> None:
        """Forget times and NaN of the last candidate."""
        self.seconds = 0.0
        self._nan: list[torch.Tensor] = []

    @property
    def nan_seen(self) -> bool:
        return bool(self._nan) and bool(torch.stack(self._nan).any())

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **keywords: Any) -> list[int]:
        key = (string, add_special_tokens, *keywords.items())
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, add_special_tokens, **keywords)
        return self._encoded[key]

    def tok_batch_encode(self, strings: Any, *arguments: Any, **keywords: Any) -> tuple[torch.Tensor, torch.Tensor]:
        key = (tuple(strings), arguments, *keywords.items())
        if key not in self._batches:
            self._batches[key] = super().tok_batch_encode(list(strings), *arguments, **keywords)
        return self._batches[key]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        if self.backend != "causal":
            return super().loglikelihood(requests, disable_tqdm=True)
        key = tuple(map(id, requests))
        if key not in self._plans:
            encoded = [self._encode(*request.args) for request in requests]
            batches = plan_batches(encoded, batch_size=self.batch_size, max_length=self.max_length, device=self.device)
            self._plans[key] = (batches, tuple(requests))  # the requests are kept: their identities are the key
        return run_batches(self._plans[key][0], self._model_call, count=len(requests))

    def _encode(self, context: str, continuation: str) -> Encoded:
        """Token ids as `TemplateLM.loglikelihood` makes them: an empty context becomes the prefix token."""
        if context:
            pair: Encoded = self._encode_pair(context, continuation)
            return pair
        ids = self.tok_encode(continuation, add_special_tokens=False)
        return (ids[:1], ids[1:]) if ids[:1] == [self.prefix_token_id] else ([self.prefix_token_id], ids)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        # `loglikelihood_rolling` asks for a progress bar per batch.
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _model_call(self, *arguments: Any, **keywords: Any) -> Any:
        return self._timed(super()._model_call, *arguments, **keywords)

    def _model_generate(self, *arguments: Any, **keywords: Any) -> Any:
        # One logit of each row tells: NaN anywhere in the last hidden state makes the whole row NaN.
        hook = self.model.register_forward_hook(
            lambda module, inputs, output: self._nan.append(torch.isnan(output.logits[:, -1, 0]).any())
        )
        try:
            return self._timed(super()._model_generate, *arguments, **keywords)
        finally:
            hook.remove()

    def _timed(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments, **keywords)
        finally:
            self.seconds += time.perf_counter() - start
