"""lm-eval's own loop, for what cannot be shared: encoder-decoder models, sampled text, recurrent models that write."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM

from tasks.errors import TaskError, not_finite


class LanguageModel(HFLM):  # type: ignore[misc]
    """`HFLM(pretrained=model)` with log-softmax in float32 that remembers token ids and prints nothing.

    `seconds` is the time spent in the model since it was last set to 0: forward passes, and generation as a whole.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, *, max_length: int | None = None) -> None:
        self._encoded: dict[Any, list[int]] = {}
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=max_length, softmax_dtype="float32"
        )
        self.seconds = 0.0
        self._nan: list[torch.Tensor] = []

    def ask(self, instances: Sequence[Instance], batch_size: int) -> None:
        """Put the answers into `resps`: one call of the model per kind of request, repeats included.

        Raises NotFinite for NaN and TaskError for a request that lm-eval refuses.
        """
        self.batch_size_per_gpu = batch_size
        kinds: dict[str, list[Instance]] = {}
        for instance in instances:
            kinds.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
        for kind, asked in kinds.items():
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(DEFAULT_OTHER_SEED)  # as simple_evaluate does before a run
                    answers = getattr(self, kind)(asked, disable_tqdm=True)
            except (AssertionError, ValueError, TypeError) as error:  # lm-eval's ways to refuse a request
                reason = (
                    " ".join(str(error).split())[:300] or "an answer without tokens, or one longer than the context"
                )
                raise TaskError(
                    f"tasks: lm-eval cannot ask a {kind} request ({reason}); see the task's file"
                ) from error
            for instance, answer in zip(asked, answers, strict=True):
                instance.resps.append(answer)
                number = answer[0] if isinstance(answer, tuple) else answer
                if number != number:
                    raise not_finite(instance.task_name, instance.doc_id, "log-probability")
            if self._nan and bool(torch.stack(self._nan).any()):
                raise not_finite(asked[0].task_name, asked[0].doc_id, "next-token logits")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **keywords: Any) -> list[int]:
        key = (string, add_special_tokens, *keywords.items())
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, add_special_tokens, **keywords)
        return self._encoded[key]

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        # `loglikelihood_rolling` asks for a progress bar per batch.
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _model_call(self, *arguments: Any, **keywords: Any) -> Any:
        return self._timed(super()._model_call, *arguments, **keywords)

    def _model_generate(self, *arguments: Any, **keywords: Any) -> Any:
        self._nan = []
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
