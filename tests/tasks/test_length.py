"""Which prompts are too long, counted with the tokens that are really asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import GPT2Config, LlamaConfig, MambaConfig, OPTConfig, T5Config

from tasks.errors import TaskError
from tasks.length import check_positions, too_long
from tasks.prepared import Prepared, prepare_all
from tasks.spec import PromptSettings, TaskSpec

MEAN = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
CHOICE = {"output_type": "multiple_choice", "doc_to_text": "q", "doc_to_choice": "c", "doc_to_target": 0}
TEXT = {"doc_to_text": "q", "doc_to_target": "a", "generation_kwargs": {"until": ["."], "max_gen_toks": 4}}


@pytest.fixture
def asked(add_task: Callable[..., Path], tokenizer: Any) -> Callable[[], Prepared]:
    """Prompts of 6 to 8 tokens: choices of 2 with their space, or 4 new tokens."""

    def build() -> Prepared:
        choices = [{"q": "x" * size, "c": ["a", "b"]} for size in (6, 7, 8)]
        add_task("pick", choices, **CHOICE, metric_list=MEAN)
        folder = add_task("write", [{"q": "x" * size, "a": "a"} for size in (6, 7, 8)], **TEXT, metric_list=EXACT)
        specs = [TaskSpec("pick"), TaskSpec("write")]
        return prepare_all(specs, include=[folder], limit=None, tokenizer=tokenizer, prompt=PromptSettings())

    return build


@pytest.fixture
def with_bos(tokenizer: Any) -> Iterator[None]:
    """The tokenizer puts its first token before every text."""
    inner = tokenizer.backend_tokenizer
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    yield
    inner.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])


@pytest.mark.parametrize(("room", "pick", "write"), [(9, 0, 3), (8, 1, 3), (7, 2, 3), (11, 0, 1), (12, 0, 0)])
def test_counts(asked: Callable[[], Prepared], room: int, pick: int, write: int) -> None:
    # Of 8 + 2 tokens the last is only predicted: 9 are put in.
    assert too_long(asked(), "all", room) == {"pick": (pick, 3), "write": (write, 3)}


@pytest.mark.usefixtures("with_bos")
def test_the_first_token_counts(asked: Callable[[], Prepared]) -> None:
    assert too_long(asked(), "all", 9) == {"pick": (1, 3), "write": (3, 3)}
    assert too_long(asked(), "all", 12) == {"pick": (0, 3), "write": (1, 3)}


@pytest.mark.parametrize(
    ("room", "said"),
    [(1, "task 'pick': document 0: an answer has 2 tokens, the context room for 1"), (4, "generates up to 4 tokens")],
)
def test_what_lm_eval_refuses(asked: Callable[[], Prepared], room: int, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        too_long(asked(), "all", room)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (GPT2Config(n_positions=16), 16),
        (OPTConfig(max_position_embeddings=16), 16),
        (LlamaConfig(max_position_embeddings=16), None),
        (T5Config(n_positions=16), None),
        (MambaConfig(), None),
    ],
    ids=lambda each: getattr(each, "model_type", str(each)),
)
def test_learned_positions_end(config: Any, longest: int | None) -> None:
    check_positions(config, None)
    check_positions(config, longest or 10**6)
    if longest is not None:
        with pytest.raises(TaskError, match=r"^max_length: 17, but the model has positions for 16 tokens; give 16 or"):
            check_positions(config, 17)
