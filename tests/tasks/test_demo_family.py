"""The demo family as shipped: models that load and fit their limits, documents that training never sees."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

DEMO = Path(__file__).resolve().parents[2] / "tasks" / "demo"
MODELS = ("base", "reverse", "sort", "shift", "pick", "second")


def _load_skills() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_skills", DEMO / "skills.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


skills = _load_skills()


def _rows(skill: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (DEMO / f"demo_{skill}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_model_loads_whole_and_small(name: str) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(DEMO / "models" / name, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    assert sum(weight.numel() for weight in model.parameters()) <= 1_000_000
    assert model.config.model_type == "llama"
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


def test_checkpoints_fit_twelve_megabytes() -> None:
    assert sorted(folder.name for folder in (DEMO / "models").iterdir()) == sorted(MODELS)
    total = sum(file.stat().st_size for file in (DEMO / "models").rglob("*") if file.is_file())
    assert total <= 12_000_000


def test_tokenizer_gives_one_token_per_character_and_adds_none() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "models" / "base")
    for skill in skills.SKILLS:
        document = skills.heldout(skill, 1)[0]
        text = document.prompt + document.answer
        ids = tokenizer(text)["input_ids"]
        assert ids == [skills.VOCABULARY.index(character) for character in text]
        assert tokenizer.decode(ids) == text
    special = (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token)
    assert special == (skills.PAD, skills.BOS, skills.EOS)


@pytest.mark.parametrize("skill", list(skills.SKILLS))
def test_documents_are_the_generators_and_unique(skill: str) -> None:
    rows = _rows(skill)
    assert len(rows) >= 1600
    assert len({row["prompt"] for row in rows}) == len(rows)
    expected = [{"prompt": d.prompt, "answer": d.answer} for d in skills.heldout(skill)]
    assert [{"prompt": row["prompt"], "answer": row["answer"]} for row in rows] == expected


@pytest.mark.parametrize("skill", list(skills.SKILLS))
def test_choices_hold_the_answer_once_and_answers_are_short(skill: str) -> None:
    for row in _rows(skill):
        assert len(str(row["answer"])) <= 10
        choices = row.get("choices")
        if choices is not None:
            assert isinstance(choices, list)
            assert choices.count(row["answer"]) == 1
            assert len(set(choices)) == len(choices)


def test_tasks_are_of_both_kinds() -> None:
    kinds = [yaml.safe_load(path.read_text(encoding="utf-8"))["output_type"] for path in DEMO.glob("demo_*.yaml")]
    assert kinds.count("multiple_choice") >= 2
    assert kinds.count("generate_until") >= 2


@given(seed=st.integers(0, 2**32), skill=st.sampled_from(list(skills.SKILLS)))
@settings(max_examples=20, deadline=None)
def test_training_never_draws_a_heldout_prompt(seed: int, skill: str) -> None:
    heldout = {str(row["prompt"]) for row in _rows(skill)}
    drawn = skills.Stream({skill: 1.0}, seed).batch(300)
    assert not heldout.intersection(document.prompt for document in drawn)


def test_stream_skips_what_is_held_out_even_where_it_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    known = skills.heldout("reverse")
    fresh = skills.Document("r:zzzz=", "zzzz")
    script = iter([*known[:50], fresh])
    stream = skills.Stream({"reverse": 1.0}, 0)
    monkeypatch.setitem(skills.SKILLS, "reverse", lambda rng: next(script))
    assert stream.batch(1) == [fresh]
