"""Code that comes with models and tasks is named before it runs, and a model's runs only when that is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from engine.checkpoint import open_checkpoint
from evolve.by_hand.score_options import score_options
from evolve.by_hand.scoring import notes_before
from evolve.cli import app
from evolve.config.search_yaml import SearchConfig
from evolve.errors import ModelError
from evolve.preparation.preflight import code_of
from evolve.preparation.setting import Setting
from evolve.workers.resident import check_base, load_module
from evolve.workers.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[3]
BASE = ROOT / "tasks" / "demo" / "models" / "base"
CODE = """import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path({ran!r}).touch()
class Config(LlamaConfig):
    model_type = "mine"
class Model(LlamaForCausalLM):
    config_class = Config
"""


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that exists once the model's code has run."""
    return tmp_path / "ran"


@pytest.fixture
def model(tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(BASE, tmp_path / "model"))
    (folder / "mine.py").write_text(CODE.format(ran=str(ran)))
    auto_map = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    change(folder / "config.json", model_type="mine", architectures=["Model"], auto_map=auto_map)
    return folder


def test_a_models_code_is_not_run_unasked(model: Path, ran: Path) -> None:
    message = (
        r"model.*: brings code of its own, which was not run: mine\.py \(AutoConfig, AutoModelForCausalLM\); read it"
    )
    with pytest.raises(ModelError, match=message):
        check_base(open_checkpoint(str(model)))
    with pytest.raises(ModelError, match=message):
        load_module(model, dtype=None, device="cpu")  # type: ignore[arg-type]
    assert not ran.exists()


def test_a_tokenizers_code_is_not_run_unasked(model: Path, ran: Path) -> None:
    shutil.copy(BASE / "config.json", model / "config.json")
    change(model / "config.json", model_type="mine2")
    auto_map = {"AutoTokenizer": [None, "someone/else--mine.Model"]}
    change(model / "tokenizer_config.json", tokenizer_class="Mine", auto_map=auto_map)
    with pytest.raises(ModelError, match=r"not run: mine\.py of someone/else \(AutoTokenizer\); read it"):
        load_tokenizer(model)
    assert not ran.exists()


@pytest.mark.parametrize("trust", [True, False])
def test_code_is_named_before_it_runs(model: Path, ran: Path, tmp_path: Path, trust: bool) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "t.yaml").write_text("task: t\nprocess_docs: !function code.f\n")
    (own / "code.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    (own / "other.py").write_text("")
    data = {
        "name": "x",
        "models": {"base": str(model), "sources": [str(BASE)]},
        "score": {"tasks": [{"task": "t", "metric": "acc"}], "include": [str(own)]},
        "run": {"trust_remote_code": trust},
    }
    lines = list(code_of(Setting(SearchConfig.model_validate(data))))
    assert lines.pop() == f"runs code of the tasks in score.include ({own}): {own / 'code.py'}"
    mine = "as run.trust_remote_code says: mine.py (AutoConfig, AutoModelForCausalLM)"
    assert lines == [f"runs code of models.base ({model}), {mine}"] * trust
    assert not ran.exists()


@pytest.mark.parametrize("auto_map", ["a.B", ["a.B"], {"AutoConfig": 3}, {"AutoConfig": None}, 7, {"a\nb": "\x1b.C"}])
def test_any_auto_map_is_read(model: Path, ran: Path, auto_map: Any) -> None:
    change(model / "config.json", auto_map=auto_map)
    with pytest.raises(ModelError):
        check_base(open_checkpoint(str(model)))
    assert not ran.exists()


def test_scoring_names_the_tasks_code_first(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "t.yaml").write_text("task: t\nprocess_docs: !function code.f\n")
    (own / "code.py").write_text("")
    given = {option.name: option.default for option in typer.main.get_command(app).commands["score"].params}  # type: ignore[attr-defined]
    options = score_options([str(BASE)], given | {"task": ["t"], "include": [own]})
    assert notes_before(options) == [f"runs code of the tasks in --include ({own}): {own / 'code.py'}"]
