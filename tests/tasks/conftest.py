"""Tiny tasks, a character tokenizer and a random Llama, all made here; nothing is downloaded."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
import pytest
import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _data_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, with pad, bos, eos and a chat template."""
    characters = LETTERS + LETTERS.upper() + "0123456789 \n.,:;?!=<>+-'\"()"
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *characters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    made.chat_template = CHAT
    return made


def random_llama(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    """2 layers of width 64; weights large enough for answers to differ between documents."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.25,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return random_llama(len(tokenizer))


def write_task(folder: Path, name: str, documents: list[dict[str, Any]], **settings: Any) -> None:
    """A task file with its documents beside it, the data named relative to the file."""
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def choice_documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions of 4 choices of different lengths."""
    rng = random.Random(seed)

    def word(length: int) -> str:
        return "".join(rng.choices(LETTERS, k=length))

    return [
        {
            "question": word(rng.randint(5, 20)),
            "choices": [word(rng.randint(1, 4)) for _ in range(4)],
            "gold": i % 4,
        }
        for i in range(count)
    ]


def text_documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions whose answer is one letter that this random model often begins with."""
    rng = random.Random(seed)
    return [
        {"question": "".join(rng.choices(LETTERS, k=rng.randint(4, 12))), "answer": rng.choice("Q7")}
        for _ in range(count)
    ]


CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        {"metric": "mcc"},
    ],
}
TEXT: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}=",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
    ],
    "filter_list": [
        {
            "name": "first-letter",
            "filter": [{"function": "regex", "regex_pattern": "([A-Za-z0-9])"}, {"function": "take_first"}],
        },
        {"name": "whole", "filter": [{"function": "take_first"}]},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks `pick`, `pick_shots` (2 examples out of a training split), `write` and `write_shots`."""
    write_task(tmp_path, "pick", choice_documents(80), **CHOICE)
    write_task(tmp_path, "write", text_documents(80), **TEXT)
    for name, documents, settings in (
        ("pick_shots", choice_documents, CHOICE),
        ("write_shots", text_documents, TEXT),
    ):
        write_task(tmp_path, f"{name}_train", documents(20, seed=9), **settings)
        files = {"test": f"{name}.jsonl", "train": f"{name}_train.jsonl"}
        write_task(
            tmp_path,
            name,
            documents(80, seed=1),
            **settings,
            num_fewshot=2,
            training_split="train",
            fewshot_split="train",
            dataset_kwargs={"data_files": files},
        )
    return tmp_path


@pytest.fixture
def add_task(tmp_path: Path) -> Callable[..., Path]:
    """`add_task(name, documents, **settings)` writes one more task file; returns its folder."""

    def add(name: str, documents: list[dict[str, Any]], **settings: Any) -> Path:
        write_task(tmp_path, name, documents, **settings)
        return tmp_path

    return add
