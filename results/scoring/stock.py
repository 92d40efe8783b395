"""Stock lm-eval: `simple_evaluate` with `HFLM`, nothing changed but what is timed and counted around it."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
import torch
from asked import Answers, Prompting, Request, Scored
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

# The samples of a task name the document, not a measure, with these.
NOT_MEASURES = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
                "prompt_hash", "target_hash"}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """`seconds`: "whole" is the call of simple_evaluate, "model" what it spent in HFLM's answering methods, "processor"
    the same of all threads' processor time."""

    scored: Scored
    aggregated: dict[str, dict[str, float]]
    seconds: dict[str, float]


def evaluated(
    folder: Path,
    tasks: Sequence[str],
    model: torch.nn.Module,
    tokenizer: Any,
    prompting: Prompting,
    *,
    documents: int,
    batch_size: int,
    float32_softmax: bool = False,
) -> Run:
    """The first `documents` of each task of the folder, asked by stock lm-eval."""
    quiet()
    softmax = "float32" if float32_softmax else None
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype=softmax)
    with _timed(lm) as spent:
        start = time.perf_counter()
        results: Any = lm_eval.simple_evaluate(
            model=lm,
            tasks=list(tasks),
            num_fewshot=prompting.shots,
            limit=documents,
            bootstrap_iters=0,
            apply_chat_template=prompting.chat,
            fewshot_as_multiturn=True,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        )
        whole = time.perf_counter() - start
    scored = {name: _answers(results["samples"][name]) for name in tasks}
    means = results["results"]
    aggregated = {
        name: {key: value for key, value in means[name].items() if isinstance(value, float | int)} for name in tasks
    }
    return Run(
        scored,
        aggregated,
        {"whole": whole, "model": sum(by for by, _ in spent), "processor": sum(by for _, by in spent)},
    )


def quiet() -> None:
    """No progress bars, no warnings about what these measurements do on purpose."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()


@contextmanager
def _timed(lm: HFLM) -> Iterator[list[tuple[float, float]]]:
    spent: list[tuple[float, float]] = []

    def around(method: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            start, cpu = time.perf_counter(), time.process_time()
            try:
                return method(*arguments, **keywords)
            finally:
                spent.append((time.perf_counter() - start, time.process_time() - cpu))

        return call

    for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(lm, name, around(getattr(lm, name)))
    yield spent


def _answers(samples: Sequence[Mapping[str, Any]]) -> Answers:
    requests: dict[int, list[Request]] = {}
    measures: dict[str, dict[int, float]] = {}
    for sample in samples:
        document = sample["doc_id"]
        requests[document] = [
            Request(tuple(arguments), resps[0])
            for arguments, resps in zip(sample["arguments"], sample["resps"], strict=True)
        ]
        for metric in sample.keys() - NOT_MEASURES:
            name, value = f"{metric},{sample['filter']}", sample[metric]
            if isinstance(value, tuple | list) and len(value) == 2:
                measures.setdefault(name, {})[document] = float(value[0])
                measures.setdefault(f"{name}/weight", {})[document] = float(value[1])
            elif not isinstance(value, tuple | list | str):
                measures.setdefault(name, {})[document] = float(value)
    return Answers(requests, measures)
