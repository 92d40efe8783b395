"""Score a model on a set of documents: lm-eval's answers, document by document, in the forward passes they need."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tasks.asked import Asked, Documents
from tasks.errors import TaskError, not_finite
from tasks.forward import Forward
from tasks.judge import Judge
from tasks.language_model import LanguageModel
from tasks.length import context_length
from tasks.memory import Allowance
from tasks.prepared import Prepared
from tasks.prompts import DocumentRequests
from tasks.quiet import silence_libraries
from tasks.sharing import bears_sharing
from tasks.spec import SMALLEST, SetName

SCORER_VERSION = 2  # of what a score means: another one makes all recorded scores strangers
PLANS = 4  # sets of documents whose plans are remembered: the next candidate is asked the same


@dataclass(frozen=True)
class Score:
    """A model's answers to one set, judged.

    `measures`: task -> measure -> document id -> value. Measures are every metric after every filter, named as lm-eval
    names them (`acc,none`), one number a document as lm-eval records it (not turned round); of metrics that are pairs
    the second number as `word_perplexity,none/weight`; and where a task has right answers `loglikelihood`, the natural
    logarithm of the probability of the likeliest of them, with its length in `gold_tokens` and `gold_bytes`.
    `seconds`: "forward" in the model, "other" around it.
    """

    measures: Mapping[str, Mapping[str, Mapping[int, float]]]
    seconds: Mapping[str, float]


class Scorer:
    """A model in memory and what it is asked; `score` may be called whenever the model's weights changed.

    The model is put on `device` and in eval mode. `batch_tokens`: tokens in one forward pass, at most, padding
    included; fewer when memory runs out. `max_length`: the context in tokens, as lm-eval finds it.
    """

    def __init__(
        self, prepared: Prepared, model: torch.nn.Module, tokenizer: Any, *, batch_tokens: int, device: str = "cpu"
    ) -> None:
        silence_libraries()
        if batch_tokens < SMALLEST:
            raise TaskError(f"batch_tokens: {batch_tokens}; give {SMALLEST} or more")
        self.prepared = prepared
        self._model: Any = model.to(device).eval()
        self._tokenizer = tokenizer
        self._forward, self._allowance = Forward(self._model), Allowance(batch_tokens)
        self.max_length = prepared.prompt.max_length or context_length(self._model.config, tokenizer)
        self._share = bears_sharing(self._model)
        self._lm_eval: LanguageModel | None = None
        self._judges = {name: Judge(task) for name, task in prepared.tasks.items()}
        self._asked: dict[Any, tuple[Documents, Asked | None]] = {}

    def score(self, which: SetName, only: Mapping[str, Collection[int]] | None = None) -> Score:
        """Ask and judge the set's documents, or of each task those that `only` names.

        Raises NotFinite when answers or values are NaN, TaskError when lm-eval cannot ask or judge, MemoryError when
        not even small forward passes fit.
        """
        start = time.perf_counter()
        documents, asked = self._plan(which, only)
        self._forward.seconds = 0.0
        for each in (each for its in documents.values() for each in its):
            for instance in each.instances:
                instance.resps.clear()
                instance.filtered_resps.clear()
        if asked is not None:
            asked.ask(self._forward, self._allowance)
        forward = self._forward.seconds + self._ask_lm_eval(documents, asked)
        measures = {}
        for name, its in documents.items():
            measures[name] = self._judges[name].measures(its) | right_answers(asked, its)
        total = time.perf_counter() - start
        return Score(measures, {"forward": forward, "other": total - forward})

    def _plan(self, which: SetName, only: Mapping[str, Collection[int]] | None) -> tuple[Documents, Asked | None]:
        """The documents, and what is asked of a decoder-only model."""
        key = (which, None if only is None else tuple((name, tuple(sorted(ids))) for name, ids in sorted(only.items())))
        if key not in self._asked:
            if len(self._asked) == PLANS:
                del self._asked[next(iter(self._asked))]
            documents = {
                name: tuple(each for each in its if only is None or each.id in only.get(name, ()))
                for name, its in self.prepared.requests(which).items()
            }
            asked = None
            if not self._model.config.is_encoder_decoder:
                asked = Asked(documents, self._model, self._tokenizer, max_length=self.max_length, share=self._share)
            self._asked[key] = documents, asked
        self._asked[key] = self._asked.pop(key)  # the last one used is the last one forgotten
        return self._asked[key]

    def _ask_lm_eval(self, documents: Documents, asked: Asked | None) -> float:
        """What lm-eval's own loop has to answer; returns the seconds in the model."""
        left = (
            [instance for its in documents.values() for each in its for instance in each.instances]
            if asked is None
            else asked.left
        )
        if not left:
            return 0.0
        if self._lm_eval is None:
            self._lm_eval = LanguageModel(self._model, self._tokenizer, max_length=self.prepared.prompt.max_length)
        loop = self._lm_eval
        loop.seconds = 0.0
        longest = max(1, *(len(loop.tok_encode(str(instance.args[0]))) for instance in left))

        def work(tokens: int) -> None:
            for instance in left:
                instance.resps.clear()
            loop.ask(left, max(1, tokens // longest))

        self._allowance.within(work)
        return loop.seconds


def right_answers(asked: Asked | None, documents: Collection[DocumentRequests]) -> dict[str, dict[int, float]]:
    """The measures `loglikelihood`, `gold_tokens` and `gold_bytes` of the documents that have them."""
    found: dict[str, dict[int, float]] = {}
    for each in documents:
        best: tuple[float, int, int] | None = None
        if [instance.request_type for instance in each.instances] == ["loglikelihood_rolling"]:
            (text,), (_, ids) = each.instances[0].args, each.encoded[0]
            best = float(each.instances[0].resps[0]), len(ids), len(text.encode())
        for gold in each.gold:
            total = None if asked is None else asked.likelihood(gold.encoded)
            if total is not None and (best is None or total > best[0]):
                best = total, len(gold.encoded[1]), gold.bytes
        if best is None:
            continue
        if math.isnan(best[0]):
            raise not_finite(each.instances[0].task_name, each.id, "log-probability of the right answer")
        for name, value in zip(("loglikelihood", "gold_tokens", "gold_bytes"), best, strict=True):
            found.setdefault(name, {})[each.id] = value
    return found
