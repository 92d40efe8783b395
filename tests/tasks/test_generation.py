"""Greedy text is what lm-eval's HFLM writes, whatever is shared, however long the answers are."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from transformers import GenerationConfig

from tasks.encoding import Encoder
from tasks.errors import NotFinite
from tasks.forward import Forward
from tasks.generation import Generation, Prompt
from tasks.memory import Allowance
from tasks.stopping import Stopping, is_plain_greedy, settings_of

NEW = 24


def prompts_of(count: int, shared: str = "") -> list[str]:
    drawn = random.Random(3)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [shared + "".join(drawn.choices(letters, k=drawn.randint(1, 30))) + ":" for _ in range(count)]


def ours(model: Any, tokenizer: Any, texts: Sequence[str], stops: Sequence[str], limit: int = 512) -> list[str]:
    encoder = Encoder(tokenizer)
    asked = [
        Prompt(encoder.encode(Instance("generate_until", {}, (text, {}), 0))[0], NEW, tuple(stops)) for text in texts
    ]
    stopping = Stopping(settings_of(model, {}), tokenizer)
    made, _ = Generation(asked, stopping).ask(Forward(model), Allowance(limit))
    return [
        postprocess_generated_text(tokenizer.decode(ids, skip_special_tokens=True), list(stops), None) for ids in made
    ]


def stock(model: Any, tokenizer: Any, texts: Sequence[str], stops: Sequence[str]) -> list[str]:
    settings = {"until": list(stops), "do_sample": False, "max_gen_toks": NEW}
    requests = [Instance("generate_until", {}, (text, dict(settings)), place) for place, text in enumerate(texts)]
    found: list[str] = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=7).generate_until(
        requests, disable_tqdm=True
    )
    return found


@pytest.mark.parametrize("stops", [["e"], ["ab", "Q", "7:"], ["\n\n"]])
@pytest.mark.parametrize("shared", ["", "the same long beginning of everything that is asked here. " * 3])
def test_text_equals_stock(model: Any, tokenizer: Any, shared: str, stops: list[str]) -> None:
    texts = prompts_of(30, shared)
    expected = stock(model, tokenizer, texts, stops)
    assert len({len(text) for text in expected}) > 3 or stops == ["\n\n"], "the check would be empty"
    for limit in (64, 512, 4096):
        assert ours(model, tokenizer, texts, stops, limit) == expected


def test_equal_prompts_are_answered_once(model: Any, tokenizer: Any) -> None:
    texts = prompts_of(6)
    forward = Forward(model)
    encoder = Encoder(tokenizer)
    ids = [encoder.encode(Instance("generate_until", {}, (text, {}), 0))[0] for text in texts]
    stopping = Stopping(settings_of(model, {}), tokenizer)
    once, _ = Generation([Prompt(each, NEW, ()) for each in ids], stopping).ask(forward, Allowance(512))
    tokens, forward.tokens = forward.tokens, 0
    twice, _ = Generation([Prompt(each, NEW, ()) for each in ids * 2], stopping).ask(forward, Allowance(512))
    assert twice == once * 2
    assert forward.tokens == tokens
    # Equal prompts that may go on for different lengths share their beginning only.
    both, _ = Generation([Prompt(ids[0], NEW, ()), Prompt(ids[0], 2, ())], stopping).ask(forward, Allowance(512))
    assert both == [once[0], once[0][:2]]


def test_sequences_leave_when_they_have_ended(model: Any, tokenizer: Any) -> None:
    texts = prompts_of(40)
    forward, encoder = Forward(model), Encoder(tokenizer)
    ids = [encoder.encode(Instance("generate_until", {}, (text, {}), 0))[0] for text in texts]
    asked = [Prompt(each, NEW, ("e", "a", "o", "7", "Q", "t")) for each in ids]
    made, _ = Generation(asked, Stopping(settings_of(model, {}), tokenizer)).ask(forward, Allowance(4096))
    given = sum(len(prompt.ids) for prompt in asked)
    needed = given + sum(len(ids) - 1 for ids in made)
    everybody_waiting = given + len(asked) * (max(map(len, made)) - 1)
    assert needed < 0.8 * everybody_waiting, "the check would be empty"
    assert forward.tokens < needed + 0.5 * (everybody_waiting - needed)


def test_the_models_own_settings_hold(model: Any, tokenizer: Any) -> None:
    texts = prompts_of(20)
    plain = ours(model, tokenizer, texts, ["e"])
    model.generation_config.repetition_penalty = 1.3
    penalised = ours(model, tokenizer, texts, ["e"])
    assert penalised == stock(model, tokenizer, texts, ["e"]) != plain
    model.generation_config = GenerationConfig(eos_token_id=[2, 10, 11, 12], pad_token_id=0)
    assert ours(model, tokenizer, texts, ["e"]) == stock(model, tokenizer, texts, ["e"]) != plain


@pytest.mark.parametrize(("settings", "plain"), [
    ({}, True),
    ({"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.1}, True),
    ({"do_sample": True}, False),
    ({"num_beams": 2}, False),
    ({"no_repeat_ngram_size": 3}, False),
    ({"min_new_tokens": 3}, False),
    ({"suppress_tokens": [5]}, False),
])  # fmt: skip
def test_what_is_more_than_greedy_is_left_to_transformers(settings: dict[str, Any], plain: bool) -> None:
    assert is_plain_greedy(GenerationConfig(**settings)) == plain


def test_a_tokenizer_without_a_padding_token_is_enough(model: Any, tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    texts = prompts_of(9)
    assert ours(model, bare, texts, ["e"]) == ours(model, tokenizer, texts, ["e"])
    assert bare.pad_token is None


def test_what_is_held_at_once_is_bounded_however_long_one_prompt_is(model: Any, tokenizer: Any) -> None:
    forward, stopping = Forward(model), Stopping(settings_of(model, {}), tokenizer)
    asked = [Prompt(tuple(range(3, 3 + size)), 4, ()) for size in [70, *range(5, 25)] * 10]
    asked = [Prompt((number % 80, *prompt.ids), 4, ()) for number, prompt in enumerate(asked)]
    Generation(asked, stopping).ask(forward, Allowance(64))
    held = sum(kept.nbytes for kept in forward._rooms.values())
    per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, size, bytes
    assert held <= 8 * 64 * per_token < len(asked) * 80 * per_token


def test_nan_is_noticed(model: Any, tokenizer: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(NotFinite):
        ours(model, tokenizer, prompts_of(3), ["e"])


@pytest.mark.parametrize("left", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_a_model_before_left_in_memory_does_no_harm(model: Any, tokenizer: Any, left: float) -> None:
    stopping, encoder = Stopping(settings_of(model, {}), tokenizer), Encoder(tokenizer)
    ids = [encoder.encode(Instance("generate_until", {}, (text, {}), 0))[0] for text in prompts_of(20)]
    generation = Generation([Prompt(each, NEW, ("e",)) for each in ids], stopping)
    forward = Forward(model)
    expected, _ = generation.ask(forward, Allowance(512))
    for kept in forward._rooms.values():
        kept.fill_(left)
    assert generation.ask(forward, Allowance(512))[0] == expected


def test_plans_depend_on_what_is_asked_alone(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, forward = Stopping(settings_of(model, {}), tokenizer), Forward(model)
    generation = Generation([Prompt(tuple(range(3, 3 + size)), NEW, ()) for size in range(5, 15)], stopping)
    expected, _ = generation.ask(forward, Allowance(512))
    monkeypatch.setattr(Generation, "_groups", lambda *_: pytest.fail("sorted again"))
    assert generation.ask(forward, Allowance(512))[0] == expected


def test_generation_survives_an_allocation_that_fails(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = prompts_of(30)
    expected, plain = ours(model, tokenizer, texts, ["e"]), Forward.logits

    def scarce(self: Forward, batch: Any, trunk: Any) -> Any:
        if batch.tokens.numel() > 100:
            raise MemoryError
        return plain(self, batch, trunk)

    monkeypatch.setattr(Forward, "logits", scarce)
    assert ours(model, tokenizer, texts, ["e"], 4096) == expected
