"""What counts as a public benchmark, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.benchmarks import benchmark_sign
from tasks.errors import BenchmarkRefused
from tasks.prepared import prepare
from tasks.spec import PromptSettings, Sizes, TaskSpec


def sign(task: str = "mine", path: str = "json", files: Any = None, split: str = "test", text: str = "x") -> Any:
    documents = [{"question": text, "more": {"choices": ["a", text]}}]
    return benchmark_sign(task, dataset_path=path, data_files=files, split=split, documents=documents)


REFUSED = (
    "mmlu mmlu_abstract_algebra hendrycks_math agieval_en gsm8k gsm8k_cot hellaswag winogrande arc_easy "
    "arc_challenge ai2_arc truthfulqa_mc2 bigbench_x bbh_cot piqa openbookqa leaderboard_bbh humaneval "
    "mbpp gpqa_diamond ifeval race MMLU_pro "
)


@pytest.mark.parametrize("name", REFUSED.split())
def test_names_of_benchmarks(name: str) -> None:
    assert "its name" in sign(name)


@pytest.mark.parametrize(
    "name", ["gsm8k_train", "gsm8k_train_slice", "arc_train", "piquant", "demo_sort", "arcade", "race_cars"]
)
def test_training_slices_and_other_words_are_welcome(name: str) -> None:
    assert sign(name) is None


@pytest.mark.parametrize(
    ("path", "split", "refused"),
    [
        ("openai/gsm8k", "test", True),
        ("openai/gsm8k", "train", False),
        ("cais/mmlu", "validation[:100]", True),
        ("cais/mmlu", "auxiliary_train", False),
        ("Idavidrein/gpqa", "train", True),  # its only split
        ("somebody/letters", "test", False),
    ],
)
def test_hub_data_sets_by_split(path: str, split: str, refused: bool) -> None:
    assert (sign(path=path, split=split) is not None) == refused


def test_hub_address_among_data_files() -> None:
    assert sign(files={"test": "hf://datasets/openai/gsm8k@main/main/test.parquet"})
    assert sign(files={"test": "folder/gsm8k/test.jsonl"}) is None


def test_copied_questions_are_recognised() -> None:
    found = sign(text="Janet\u2019s  ducks lay\n16 eggs per day. She eats three")
    assert "GSM8K" in found
    assert sign(text="a duck lays an egg") is None


def test_refused_unless_allowed(add_task: Callable[..., Path], tokenizer: Any) -> None:
    documents = [{"question": f"q{number}", "answer": "a"} for number in range(9)]
    folder = add_task("gsm8k_mine", documents, doc_to_text="{{question}}", doc_to_target="{{answer}}",
                      metric_list=[{"metric": "exact_match"}])  # fmt: skip
    specs = [TaskSpec("gsm8k_mine", "exact_match")]
    with pytest.raises(BenchmarkRefused, match=r"task 'gsm8k_mine': its name .*`allow_benchmarks: true`"):
        prepare(
            specs, include=[folder], sizes=Sizes(3, 3, 3), seed=0, tokenizer=tokenizer, prompt=PromptSettings(),
            allow_benchmarks=False,
        )  # fmt: skip
    prepared = prepare(
        specs, include=[folder], sizes=Sizes(3, 3, 3), seed=0, tokenizer=tokenizer, prompt=PromptSettings(),
        allow_benchmarks=True,
    )  # fmt: skip
    assert prepared.benchmarks == ("gsm8k_mine",)
