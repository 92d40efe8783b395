"""The requests of some documents, sorted by how they are answered, planned once for one candidate after another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text
from transformers import GenerationConfig

from tasks.encoding import Encoded, Encoder
from tasks.errors import NotFinite, TaskError, not_finite
from tasks.forward import Forward
from tasks.gen_settings import normalized
from tasks.generation import Generation, Prompt
from tasks.likelihood import Likelihood, Likelihoods
from tasks.memory import Allowance
from tasks.prompts import DocumentRequests
from tasks.reach import reach_of
from tasks.stopping import Stopping, is_plain_greedy, settings_of

Documents = Mapping[str, Sequence[DocumentRequests]]


@dataclass
class Group:
    """Instances that are continued with the same settings, and the right answers to their documents."""

    settings: GenerationConfig
    instances: list[Instance] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    golds: dict[Encoded, int] = field(default_factory=dict)
    beside: list[list[int]] = field(default_factory=list)  # by prompt, of `golds`
    written: dict[int, tuple[list[int], str]] = field(default_factory=dict)  # by prompt, the last tokens and text


class Asked:
    """What the documents ask of a decoder-only model.

    `share`: whether the model bears that shared prefixes are evaluated once. `left`: instances that only lm-eval's own
    loop can answer (sampling, beams, and all text where prefixes cannot be shared).
    """

    def __init__(self, documents: Documents, model: Any, tokenizer: Any, *, max_length: int, share: bool) -> None:
        self._documents = [each for its in documents.values() for each in its]
        self._model, self._tokenizer, self._max_length, self._share = model, tokenizer, max_length, share
        self._encoder = Encoder(tokenizer)
        self._reach = reach_of(model)
        self._places: dict[Encoded, int] = {}
        self._windows: dict[int, list[Encoded]] = {}  # of rolling log-likelihoods, by the instance's identity
        self._groups: dict[str, Group] = {}
        self.left: list[Instance] = []
        for each in self._documents:
            for instance, encoded in zip(each.instances, each.encoded, strict=True):
                self._sort(each, instance, encoded)
        how: dict[str, Any] = {"max_length": max_length, "share": share, "reach": self._reach}
        self._likelihoods = Likelihoods(list(self._places), **how)
        self._generations = [
            Generation(
                group.prompts,
                Stopping(group.settings, tokenizer),
                group.beside,
                Likelihoods(list(group.golds), **how),
            )
            for group in self._groups.values()
        ]
        self._found: dict[Encoded, Likelihood] = {}

    def ask(self, forward: Forward, allowance: Allowance) -> None:
        """Put the model's answers into `resps` of all instances but those that are left.

        Raises NotFinite for NaN, MemoryError when no forward pass is small enough.
        """
        self._found = dict(zip(self._places, self._likelihoods.ask(forward, allowance), strict=True))
        for each in self._documents:
            for instance, encoded in zip(each.instances, each.encoded, strict=True):
                self._answer(instance, encoded)
        for group, generation in zip(self._groups.values(), self._generations, strict=True):
            try:
                made, golds = generation.ask(forward, allowance)
            except NotFinite:
                first = group.instances[0]
                raise not_finite(first.task_name, first.doc_id, "next-token logits") from None
            self._found.update(zip(group.golds, golds, strict=True))
            for place, (instance, ids) in enumerate(zip(group.instances, made, strict=True)):
                if (
                    group.written.get(place, ([], ""))[0] != ids
                ):  # candidates often write what the one before them wrote
                    text = self._tokenizer.decode(ids, skip_special_tokens=True)
                    stops = list(group.prompts[place].stops)
                    group.written[place] = ids, postprocess_generated_text(text, stops, None)
                instance.resps.extend([group.written[place][1]] * (instance.repeats or 1))

    def likelihood(self, encoded: Encoded) -> float | None:
        """The log-likelihood of a right answer; None where it does not fit into the context."""
        found = self._found.get(encoded)
        return None if found is None else found.total

    def _sort(self, document: DocumentRequests, instance: Instance, encoded: Encoded) -> None:
        """Find out how a request is answered, and with it the right answers to its document."""
        answers = [gold.encoded for gold in document.gold]
        golds = [each for each in answers if each[0] and 0 < len(each[1]) <= self._max_length]
        if instance.request_type == "generate_until":
            group = self._group(instance, encoded)
            if group is not None and instance is document.instances[0]:
                group.beside[-1] = [group.golds.setdefault(gold, len(group.golds)) for gold in golds]
                return
        elif instance.request_type == "loglikelihood":
            self._place(self._checked(encoded, instance))
        else:
            windows = self._encoder.windows(encoded[1], self._max_length)
            self._windows[id(instance)] = [self._place(self._checked(window, instance)) for window in windows]
        for gold in golds if instance is document.instances[0] else ():
            self._place(gold)

    def _group(self, instance: Instance, encoded: Encoded) -> Group | None:
        """The group that the instance was put into; None: it is left."""
        if self._tokenizer.eos_token_id is None:
            raise TaskError(
                f"task {instance.task_name!r}: generates text, but the tokenizer has no token that ends one; set its "
                "eos_token"
            )
        options: dict[str, Any] = dict(normalized(instance.args[1]))
        ending = self._tokenizer.decode(self._tokenizer.eos_token_id, skip_special_tokens=False)
        stops = tuple(handle_stop_sequences(options.pop("until", None), eos=ending))
        new = options.pop("max_gen_toks")
        if new >= self._max_length:
            raise TaskError(
                f"task {instance.task_name!r}: generates up to {new} tokens, but the context has room for "
                f"{self._max_length}; raise max_length, or lower max_gen_toks in the task's generation_kwargs"
            )
        if options.get("temperature") == 0.0:
            options["do_sample"] = options.get("do_sample") or False
        key = json.dumps(options, sort_keys=True, default=str)
        ids = encoded[0][-(self._max_length - new) :]
        fits = self._reach.shareable is None or len(ids) + new <= self._reach.shareable
        if not (self._share and fits) or "max_length" in options:
            self.left.append(instance)
            return None
        group = self._groups.get(key)
        if group is None:
            settings = settings_of(self._model, options)
            if not is_plain_greedy(settings):
                self.left.append(instance)
                return None
            group = self._groups[key] = Group(settings)
        group.instances.append(instance)
        group.prompts.append(Prompt(ids, new, stops))
        group.beside.append([])
        return group

    def _checked(self, encoded: Encoded, instance: Instance) -> Encoded:
        if not encoded[0]:
            raise TaskError(
                f"task {instance.task_name!r}: document {instance.doc_id}: its prompt has no tokens; see the task's "
                "doc_to_text"
            )
        if not 0 < len(encoded[1]) <= self._max_length:
            raise TaskError(
                f"task {instance.task_name!r}: document {instance.doc_id}: an answer has {len(encoded[1])} tokens, and "
                f"the context has room for {self._max_length}; shorten the answer, or give one"
            )
        return encoded

    def _place(self, encoded: Encoded) -> Encoded:
        self._places.setdefault(encoded, len(self._places))
        return encoded

    def _answer(self, instance: Instance, encoded: Encoded) -> None:
        """Put log-likelihoods into `resps`."""
        answer: Any
        if instance.request_type == "loglikelihood":
            found = self._found[encoded]
            total, answer = found.total, (found.total, found.greedy)
        elif instance.request_type == "loglikelihood_rolling":
            total = answer = sum(self._found[window].total for window in self._windows[id(instance)])
        else:
            return
        if total != total:
            raise not_finite(instance.task_name, instance.doc_id, "log-probability")
        instance.resps.extend([answer] * (instance.repeats or 1))
