"""Our batches give lm-eval's own log-likelihoods, bit for bit, in its odd cases too."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from tasks.loglikelihood import plan_batches, run_batches


def pairs(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Contexts with answers of 1 to 5 tokens, some sharing all but the last token, some split at other places."""
    rng = random.Random(seed)
    made: list[tuple[list[int], list[int]]] = []
    for _ in range(count):
        context = rng.choices(range(4, 80), k=rng.randint(1, 30))
        made += [(context, rng.choices(range(4, 80), k=rng.randint(1, 5))) for _ in range(2)]
        made += [(context, [token]) for token in rng.sample(range(4, 80), 3)]
        whole = rng.choices(range(4, 80), k=9)
        made += [(whole[:3], whole[3:]), (whole[:6], [*whole[6:8], 5])]
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch_size", "max_length"), [(1, 64), (7, 64), (32, 64), (7, 8)])
def test_equal_to_stock(model: Any, tokenizer: Any, batch_size: int, max_length: int, dtype: torch.dtype) -> None:
    stock = HFLM(
        pretrained=model.to(dtype),
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=max_length,
        softmax_dtype="float32",
    )
    encoded = pairs(12, seed=batch_size)
    expected = stock._loglikelihood_tokens([(("", ""), *pair) for pair in encoded], disable_tqdm=True)
    batches = plan_batches(encoded, batch_size=batch_size, max_length=max_length, device=torch.device("cpu"))
    assert run_batches(batches, stock._model_call, count=len(encoded)) == expected


def test_greedy_answers_are_seen(model: Any, tokenizer: Any) -> None:
    context = [5, 6, 7]
    with torch.no_grad():
        likeliest = int(model(torch.tensor([context])).logits[0, -1].argmax())
    encoded = [(context, [likeliest]), (context, [likeliest + 1])]
    batches = plan_batches(encoded, batch_size=2, max_length=64, device=torch.device("cpu"))
    answers = run_batches(batches, HFLM(pretrained=model, tokenizer=tokenizer)._model_call, count=2)
    assert [greedy for _, greedy in answers] == [True, False]


@pytest.mark.parametrize("answer", [[], list(range(9))])
def test_answers_that_cannot_be_scored(answer: list[int]) -> None:
    with pytest.raises(AssertionError, match=f"{len(answer)} tokens in an answer, the context holds 8"):
        plan_batches([([1], answer)], batch_size=1, max_length=8, device=torch.device("cpu"))
