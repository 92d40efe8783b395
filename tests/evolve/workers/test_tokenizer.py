"""Tokenizers are loaded whichever version of transformers saved them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evolve.errors import ModelError
from evolve.workers import tokenizer
from evolve.workers.tokenizer import load_tokenizer

BASE = Path(__file__).parents[3] / "tasks/demo/models/base"


def test_one_that_a_later_transformers_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BASE, tmp_path / "model")
    config = tmp_path / "model" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "OfALaterVersion"}))
    with pytest.raises(ModelError, match="has no tokenizer that transformers can load"):
        load_tokenizer(tmp_path / "model" / "nothing")
    monkeypatch.setattr(tokenizer, "GENERIC", "OfALaterVersion")
    found = load_tokenizer(tmp_path / "model")
    assert found("abc").input_ids == load_tokenizer(BASE)("abc").input_ids
    assert found.eos_token == "<eos>"
