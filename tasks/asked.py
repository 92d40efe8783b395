"""The requests of some documents, sorted by how they are answered, planned once for one candidate after another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from tasks.encoding import Encoded, Encoder
from tasks.errors import NotFinite, TaskError, not_finite
from tasks.forward import Forward
from tasks.generation import Generation, Prompt
from tasks.likelihood import Likelihood, Likelihoods
from tasks.memory import Allowance
from tasks.prompts import DocumentRequests
from tasks.sharing import longest_shareable
from tasks.stopping import Stopping, is_plain_greedy, settings_of

NEW_TOKENS = 256  # lm-eval's `max_gen_toks` where a task names none
Documents = Mapping[str, Sequence[DocumentRequests]]


@dataclass(frozen=True)
class Written:
    """Instances that are continued with the same settings."""

    instances: tuple[Instance, ...]
    generation: Generation
    stops: tuple[tuple[str, ...], ...]


class Asked:
    """What the documents ask of a decoder-only model.

    `share`: whether the model bears that shared prefixes are evaluated once. `left`: instances that only lm-eval's own
    loop can answer (sampling, beams, and all text where prefixes cannot be shared).
    """

    def __init__(self, documents: Documents, model: Any, tokenizer: Any, *, max_length: int, share: bool) -> None:
        self._documents = [each for its in documents.values() for each in its]
        self._encoder, self._tokenizer, self._max_length = Encoder(tokenizer), tokenizer, max_length
        self._places: dict[Encoded, int] = {}
        self._windows: dict[int, list[int]] = {}
        self.left: list[Instance] = []
        writing: list[tuple[Instance, Encoded]] = []
        for each in self._documents:
            for instance, encoded in zip(each.instances, each.encoded, strict=True):
                if instance.request_type == "loglikelihood":
                    self._add(encoded, each, instance.task_name)
                elif instance.request_type == "loglikelihood_rolling":
                    windows = self._encoder.windows(encoded[1], max_length)
                    self._windows[id(instance)] = [self._add(window, each, instance.task_name) for window in windows]
                else:
                    writing.append((instance, encoded))
            for gold in each.gold:
                if 0 < len(gold.encoded[1]) <= max_length:
                    self._place(gold.encoded)
        window = longest_shareable(model)
        self._share = share
        fits = window is None or all(len(given) + len(asked) <= window for given, asked in self._places)
        self._likelihoods = Likelihoods(list(self._places), max_length=max_length, share=share and fits)
        self._written = self._writing(writing, model, window)
        self._found: list[Likelihood] = []

    def ask(self, forward: Forward, allowance: Allowance) -> None:
        """Put the model's answers into `resps` of all instances but those that are left.

        Raises NotFinite for NaN, MemoryError when no forward pass is small enough.
        """
        self._found = self._likelihoods.ask(forward, allowance)
        self._answer_likelihoods()
        for written in self._written:
            try:
                made = written.generation.ask(forward, allowance)
            except NotFinite:
                first = written.instances[0]
                raise not_finite(first.task_name, first.doc_id, "next-token logits") from None
            for instance, ids, stops in zip(written.instances, made, written.stops, strict=True):
                text = self._tokenizer.decode(ids, skip_special_tokens=True)
                answer = postprocess_generated_text(text, list(stops), None)
                instance.resps.extend([answer] * (instance.repeats or 1))

    def _answer_likelihoods(self) -> None:
        for each in self._documents:
            for instance, encoded in zip(each.instances, each.encoded, strict=True):
                if instance.request_type == "loglikelihood":
                    found = self._found[self._places[encoded]]
                    instance.resps.extend([(found.total, found.greedy)] * (instance.repeats or 1))
                    total = found.total
                elif instance.request_type == "loglikelihood_rolling":
                    total = sum(self._found[place].total for place in self._windows[id(instance)])
                    instance.resps.extend([total] * (instance.repeats or 1))
                else:
                    continue
                if total != total:
                    raise not_finite(instance.task_name, each.id, "log-probability")

    def likelihood(self, encoded: Encoded) -> float | None:
        """The log-likelihood of a right answer; None where it does not fit into the context."""
        place = self._places.get(encoded)
        return None if place is None else self._found[place].total

    def _add(self, encoded: Encoded, document: DocumentRequests, task: str | None) -> int:
        if not 0 < len(encoded[1]) <= self._max_length:
            raise TaskError(
                f"task {task!r}: document {document.id}: an answer has {len(encoded[1])} tokens, and the context has "
                f"room for {self._max_length}; shorten the answer, or give one"
            )
        return self._place(encoded)

    def _place(self, encoded: Encoded) -> int:
        return self._places.setdefault(encoded, len(self._places))

    def _writing(
        self, asked: Sequence[tuple[Instance, Encoded]], model: Any, window: int | None
    ) -> tuple[Written, ...]:
        groups: dict[str, list[tuple[Instance, Prompt]]] = {}
        settings = {}
        ending = self._tokenizer.decode(self._tokenizer.eos_token_id, skip_special_tokens=False)
        for instance, (ids, _) in asked:
            options: dict[str, Any] = dict(normalize_gen_kwargs(instance.args[1], NEW_TOKENS))
            stops = tuple(handle_stop_sequences(options.pop("until", None), eos=ending))
            new = options.pop("max_gen_toks")
            if new >= self._max_length:
                raise TaskError(
                    f"task {instance.task_name!r}: generates up to {new} tokens, but the context has room for "
                    f"{self._max_length}; raise max_length, or lower max_gen_toks in the task's generation_kwargs"
                )
            if options.get("temperature") == 0.0:
                options = {**options, "do_sample": options.get("do_sample") or False}
            config = None if "max_length" in options else settings_of(model, options)
            ids = ids[-(self._max_length - new) :]
            fits = window is None or len(ids) + new <= window
            if config is None or not (self._share and fits and is_plain_greedy(config)):
                self.left.append(instance)
                continue
            key = json.dumps(options, sort_keys=True, default=str)
            settings[key] = config
            groups.setdefault(key, []).append((instance, Prompt(ids, new, stops)))
        return tuple(
            Written(
                tuple(instance for instance, _ in group),
                Generation([prompt for _, prompt in group], Stopping(settings[key], self._tokenizer)),
                tuple(prompt.stops for _, prompt in group),
            )
            for key, group in groups.items()
        )
