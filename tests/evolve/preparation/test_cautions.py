"""What is known of lengths before there is a model: a context beyond learned positions is refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from evolve.cli import app
from evolve.config.search_yaml import SearchConfig
from evolve.errors import ConfigError
from evolve.preparation.cautions import budget_cautions, length_cautions, objective_cautions, staleness_cautions
from evolve.preparation.setting import Setting
from evolve.workers.sizing import Workers
from tasks.errors import TaskError
from tasks.objective import Goal, Objective

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """A model of 48 learned positions with the tokenizer of the demo."""
    base = DEMO / "models" / "base"
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    folder = tmp_path / "learned"
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=48, n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(base / name, folder / name)
    return folder


def setting(model: Path, output: Path, max_length: int | None) -> Setting:
    documents = {"search": 4, "selection": 4, "report": 4}
    score: dict[str, Any] = {"tasks": [{"task": "demo_reverse", "metric": "exact_match"}], "documents": documents}
    return Setting(
        SearchConfig.model_validate(
            {
                "name": "run",
                "models": {"base": str(model), "sources": [str(DEMO / "models" / "sort")]},
                "score": {**score, "include": [str(DEMO)], "max_length": max_length},
                "run": {"output": str(output)},
            }
        )
    )


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"trials": 8}, "search.trials (8): the models and plain merges that a search begins with are up to "),
        ({"documents": 30}, "search.documents (30): the models and plain merges that a search begins with are up to "),
        ({"documents": 5000}, ""),
    ],
)
def test_a_budget_that_the_opening_uses_up_is_told(search: dict[str, Any], said: str) -> None:
    (told,) = [*budget_cautions(budgeted(search)), ""][:1]
    assert told.startswith(said) if said else not told


def test_a_budget_that_bears_no_candidate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"search\.documents \(3\): a single candidate is scored on 4, and"):
        list(budget_cautions(budgeted({"documents": 3})))


def budgeted(search: dict[str, Any]) -> Setting:
    whole = setting(DEMO / "models" / "base", Path("results"), None).config
    return Setting(SearchConfig.model_validate({**whole.model_dump(mode="json", exclude_unset=True), "search": search}))


def test_perplexities_beside_accuracies() -> None:
    accuracy = Goal("sums", "acc,none", 1.0, True)
    perplexity = Goal("prose", "word_perplexity,none", 1.0, False, "weighted_perplexity")
    bits = Goal("bits", "bits_per_byte,none", 1.0, False, "bits_per_byte")
    (said,) = objective_cautions(Objective((accuracy, perplexity)))
    assert said.startswith(
        "score.objective: the sum is dominated by prose, whose perplexity can be any size; sums will"
    )
    (said,) = objective_cautions(Objective((perplexity,), loglikelihood=0.2))
    assert "the log-likelihood will hardly count" in said
    for goals in ((accuracy,), (perplexity,), (accuracy, bits)):
        assert list(objective_cautions(Objective(goals))) == []
    assert list(objective_cautions(Objective((accuracy, perplexity), metric=0.0, loglikelihood=1.0))) == []


def test_a_search_beyond_learned_positions(learned: Path, tmp_path: Path) -> None:
    assert list(length_cautions(setting(learned, tmp_path, None))) == []
    assert list(length_cautions(setting(learned, tmp_path, 48))) == []
    (cut,) = length_cautions(setting(learned, tmp_path, 14))
    assert cut.startswith("task demo_reverse: 12 of 12 documents do not fit into 14 tokens")
    with pytest.raises(TaskError, match="max_length: 49, but the model has positions for 48 tokens; give 48 or less"):
        list(length_cautions(setting(learned, tmp_path, 49)))
    rotary = DEMO / "models" / "base"
    assert list(length_cautions(setting(rotary, tmp_path, 10**5))) == []


@pytest.fixture
def handlers() -> Iterator[None]:
    """The command line sets handlers of signals; they are put back."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-length", "49"], "--max-length: 49, but the model has positions for 48 tokens; give 48 or less"),
        (["--gen_kwargs", "max_gen_toks=0"], "--gen-kwargs: max_gen_toks is 0; give a whole number, 1 or more"),
        (["--gen_kwargs", "num_beam=2"], "--gen-kwargs: 'num_beam' is no generation setting; did you mean 'num_beams'"),
    ],
)
def test_evolve_score_says_it_in_one_line(
    learned: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    asked = ["score", str(learned), "--task", "demo_reverse", "--include", str(DEMO), "--limit", "2", *options]
    with pytest.raises(SystemExit) as end:
        app(asked)
    assert end.value.code
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    ("search", "count", "said"),
    [
        ({"asynchronous": True}, 64, "search.population (12): with 64 workers"),
        ({"asynchronous": True, "population": 32}, 64, ""),
        ({"asynchronous": True, "optimizer": "tpe"}, 64, ""),
        ({}, 64, ""),
    ],
)
def test_far_more_workers_than_are_told_of_at_once_are_said(search: dict[str, Any], count: int, said: str) -> None:
    (told,) = [*staleness_cautions(budgeted(search), Workers(count, 1, 0, 2**30)), ""][:1]
    assert told.startswith(said)
    assert bool(told) == bool(said)
