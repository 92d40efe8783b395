"""Score a model on one of the three sets, document by document, as stock lm-eval does on the same ids.

All requests of a kind go to the model in one call, tasks together, since that is how `lm_eval` batches a
run with these tasks: a document's neighbours in its batch, and so its last bits, are the same there and
here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.defaults import DEFAULT_OTHER_SEED

from tasks.errors import NotFinite, TaskError
from tasks.language_model import LanguageModel
from tasks.prepared import Prepared, PreparedTask
from tasks.prompts import DocumentRequests
from tasks.quiet import silence_libraries
from tasks.spec import SetName

SCORER_VERSION = 1  # of what a score means: another one makes all recorded scores strangers
TOKENS = 256  # of a request, for the size of a batch


@dataclass(frozen=True)
class Score:
    """A model's answers to one set, judged.

    `measures`: task -> measure -> document id -> value, as lm-eval records it (not turned round); a measure is a
    metric with its filter, such as `acc,none`. `seconds`: "forward" in the model, "other" around it.
    """

    measures: Mapping[str, Mapping[str, Mapping[int, float]]]
    seconds: Mapping[str, float]


class Scorer:
    """A model in memory and what it is asked; `score` may be called whenever the model's weights changed.

    The model is put on `device` and in eval mode. `batch_tokens` is tokens per forward pass.
    """

    def __init__(
        self, prepared: Prepared, model: torch.nn.Module, tokenizer: Any, *, batch_tokens: int, device: str = "cpu"
    ) -> None:
        silence_libraries()
        if batch_tokens < 1:
            raise TaskError(f"batch_tokens: {batch_tokens}; give 1 or more")
        batch_size = max(1, batch_tokens // TOKENS)
        self.prepared = prepared
        self._model = LanguageModel(
            model.to(device), tokenizer, batch_size=batch_size, max_length=prepared.prompt.max_length
        )

    def score(self, which: SetName, only: Mapping[str, Collection[int]] | None = None) -> Score:
        """Ask and judge the set's documents, or of each task those that `only` names.

        Raises NotFinite when answers or values are NaN, TaskError when lm-eval cannot ask or judge.
        """
        start = time.perf_counter()
        requests = {
            name: tuple(each for each in documents if only is None or each.id in only.get(name, ()))
            for name, documents in self.prepared.requests(which).items()
        }
        self._model.reset()
        self._answer([instance for each in chain(*requests.values()) for instance in each.instances])
        measures = {
            name: {str(self.prepared.tasks[name].metric): _judge(self.prepared.tasks[name], documents)}
            for name, documents in requests.items()
        }
        total = time.perf_counter() - start
        return Score(measures, {"forward": self._model.seconds, "other": total - self._model.seconds})

    def _answer(self, instances: list[Instance]) -> None:
        """Fill `resps` of every instance: one call of the model per kind of request, repeats included."""
        kinds: dict[str, list[Instance]] = {}
        for instance in instances:
            instance.resps.clear()
            instance.filtered_resps.clear()
            kinds.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
        for kind, asked in kinds.items():
            try:
                with torch.random.fork_rng(enabled=_samples(asked)):
                    if _samples(asked):  # as simple_evaluate does before a run
                        torch.manual_seed(DEFAULT_OTHER_SEED)
                    answers = getattr(self._model, kind)(asked, disable_tqdm=True)
            except AssertionError as error:  # lm-eval's way to refuse a request
                reason = str(error) or "an answer without tokens, or one longer than the context"
                raise TaskError(
                    f"tasks: lm-eval cannot ask a {kind} request ({reason}); see the task's file"
                ) from error
            for instance, answer in zip(asked, answers, strict=True):
                instance.resps.append(answer)
                number = answer[0] if isinstance(answer, tuple) else answer
                if isinstance(number, float) and math.isnan(number):
                    raise NotFinite(_broken(instance, "log-probability"))
            if self._model.nan_seen:
                raise NotFinite(_broken(asked[0], "next-token logits"))


def _judge(each: PreparedTask, documents: tuple[DocumentRequests, ...]) -> dict[int, float]:
    """The metric's value of every document, by the task's own filters and `process_results`."""
    if not documents:
        return {}
    pipeline = next(pipeline for pipeline in each.task._filters if pipeline.name == each.metric.filter)
    pipeline.apply([instance for document in documents for instance in document.instances])
    values = {}
    for document in documents:
        answers = [instance.filtered_resps[each.metric.filter] for instance in document.instances]
        judged = each.task.process_results(document.document, answers)
        values[document.id] = _value(judged, each, document.id)
    return values


def _value(judged: Mapping[str, Any], each: PreparedTask, identity: int) -> float:
    where = f"task {each.spec.task!r}: document {identity}"
    if each.metric.name not in judged:
        given = ", ".join(judged) or "none"
        raise TaskError(f"{where}: no value of {each.metric.name!r} (given: {given}); see the task's process_results")
    try:
        value = float(judged[each.metric.name])
    except (TypeError, ValueError) as error:
        shown = repr(judged[each.metric.name])[:60]
        raise TaskError(f"{where}: {each.metric.name!r} is {shown}, not a number; use another metric") from error
    if math.isnan(value):
        raise NotFinite(f"{where}: {each.metric.name!r} is NaN; the model's answers are broken")
    return value


def _samples(instances: list[Instance]) -> bool:
    """Whether any of the requests asks for sampled rather than greedy text."""
    return any(
        instance.request_type == "generate_until" and instance.args[1].get("do_sample") for instance in instances
    )


def _broken(instance: Instance, what: str) -> str:
    return (
        f"task {instance.task_name!r}: document {instance.doc_id}: the {what} is NaN; "
        "the model's weights overflow or are not finite"
    )
