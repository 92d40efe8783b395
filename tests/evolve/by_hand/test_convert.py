"""mergekit-evolve's configurations: what becomes of every key, and that nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.by_hand.convert import OPTIONS, convert
from evolve.config.search_yaml import load_config
from evolve.errors import ConfigError
from evolve.preparation.setting import Setting

MODELS = Path(__file__).parents[3] / "tasks" / "demo" / "models"
BASE, SORT, SHIFT = (str(MODELS / name) for name in ("base", "sort", "shift"))

# After the forms that its documentation shows.
WHOLE = """
genome:
  models:
    - org/tales-7b
    - org/sums-7b
    - {model: {path: org/law-7b, revision: v2}}
  merge_method: dare_ties
  base_model: org/plain-7b
  tokenizer_source: null
  layer_granularity: 8
  normalize: false
  allow_negative_weights: false
  smooth: false
  filters:
    - self_attn
    - mlp
tasks:
  - name: own_sums
    weight: 1.0
    metric: "exact_match,strict-match"
  - name: own_tales
    weight: 0.5
  - own_law
"""
SHORT: dict[str, Any] = {
    "genome": {"models": [SORT, SHIFT], "merge_method": "ties", "base_model": BASE},
    "tasks": ["demo_pick"],
}

Converted = tuple[dict[str, Any], list[str]]


@pytest.fixture
def converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Configuration -> the search.yaml, which can be loaded, and what was said besides of options."""

    def run(configuration: Mapping[str, Any] | str, layers: int | None = None) -> Converted:
        source, out = tmp_path / "my genome.yml", tmp_path / "search.yaml"
        source.write_text(configuration if isinstance(configuration, str) else yaml.safe_dump(dict(configuration)))
        convert(source, out, layers)
        said = capsys.readouterr()
        assert said.out == ""
        notes = said.err.splitlines()
        assert notes[-len(OPTIONS) :] == list(OPTIONS)
        load_config(out)
        return yaml.safe_load(out.read_text()), notes[: -len(OPTIONS)]

    return run


def short(genome: Mapping[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {**SHORT, **top, "genome": {**SHORT["genome"], **(genome or {})}}


def test_every_key_has_its_place(converted: Any) -> None:
    data, notes = converted(WHOLE, layers=32)
    assert data == {
        "name": "my-genome",
        "models": {"base": "org/plain-7b", "sources": ["org/tales-7b", "org/sums-7b", "org/law-7b@v2"]},
        "space": {
            "method": "dare_ties",
            "layers": 4,
            "modules": ["self_attn", "mlp"],
            "parameters": {"normalize": False},
            "out_dtype": "bfloat16",
        },
        "score": {
            "tasks": [
                {"task": "own_sums", "metric": "exact_match,strict-match"},
                {"task": "own_tales", "metric": "acc", "weight": 0.5},
                {"task": "own_law", "metric": "acc"},
            ],
            "apply_chat_template": True,
            "fewshot_as_multiturn": True,
        },
        "search": {"optimizer": "cma", "trials": 100},
    }
    assert [note.split(":")[0] for note in notes] == ["genome"] * 4 + ["limit"]


@pytest.mark.parametrize(
    ("genome", "space"),
    [
        ({"merge_method": "ties"}, {"method": "ties", "layers": 1, "parameters": {"normalize": True}}),
        (
            {"merge_method": "task_arithmetic", "allow_negative_weights": True, "layer_granularity": 2},
            {"method": "task_arithmetic", "layers": 3, "parameters": {"normalize": False}, "negative": True},
        ),
        (
            {"smooth": True, "layer_granularity": 3, "normalize": True},
            {"method": "ties", "layers": {"smooth": 2}, "parameters": {"normalize": True}},
        ),
        (
            {"smooth": True, "layer_granularity": 6},
            {"method": "ties", "layers": 1, "parameters": {"normalize": True}},
        ),
        ({"merge_method": "slerp", "layer_granularity": 1}, {"method": "slerp", "layers": 6}),
        (
            {"merge_method": "linear", "allow_negative_weights": True},
            {
                "method": "linear",
                "layers": 1,
                "parameters": {"weight": {"low": -1.0, "high": 1.0}, "normalize": True},
            },
        ),
        (
            {"filters": ["mlp", "embed_tokens"]},
            {"method": "ties", "layers": 1, "modules": ["mlp"], "parameters": {"normalize": True}},
        ),
    ],
)
def test_the_space_of_models_at_hand(
    converted: Any, tmp_path: Path, genome: dict[str, Any], space: dict[str, Any]
) -> None:
    data, _ = converted(short(genome))
    assert data["space"] == {**space, "out_dtype": "bfloat16"}
    assert Setting(load_config(tmp_path / "search.yaml")).space.genes


@pytest.mark.parametrize(
    ("configuration", "where", "why"),
    [
        (
            short({"tokenizer_source": "union"}),
            "genome.tokenizer_source",
            "union is left out: candidates are asked with",
        ),
        (short({"filters": ["lm_head"]}), "genome.filters", "lm_head is left out: it names nothing in the layers"),
        (short({"models": [BASE, SORT]}), "genome.models", f"{BASE} is the base as well"),
        (short({"merge_method": "linear"}), "genome.base_model", f"{BASE} takes part in a linear here"),
        (
            short({"merge_method": "linear", "base_model": None}),
            "genome.base_model",
            f"none is named, and {SORT} is it",
        ),
        (
            short({"merge_method": "slerp"}),
            "genome.merge_method",
            "slerp takes the best two models of each block there",
        ),
        (short({"merge_method": "slerp", "normalize": True}), "genome.normalize, genome.allow", "slerp has no weights"),
        (short({"layer_granularty": 4}), "genome.layer_granularty", "did you mean 'layer_granularity'?"),
        (short(shuffle=True), "shuffle", "left out: documents are drawn by the seed"),
        (short(random_init=True), "random_init", "a search begins with the models"),
        (short(limit=8), "limit", "the first 8 documents of each task there"),
        (short(vllm=True), "vllm", "is no key of mergekit-evolve, which ignores it"),
        (
            short(tasks=[{"name": "a", "weight": -2.0, "metric": "word_perplexity"}]),
            "tasks[0] (a)",
            "the weight -2 turns the metric round there; here 2",
        ),
        (short(tasks=["a", {"name": "b", "weight": 0}]), "tasks[1] (b)", "weighs nothing, and is left out"),
        (short(tasks=["a", {"name": "a", "metric": "acc_norm"}]), "tasks[1] (a)", "its metric acc_norm is left out"),
    ],
)
def test_what_does_not_carry_over_is_said_with_its_key(
    converted: Any, configuration: dict[str, Any], where: str, why: str
) -> None:
    _, notes = converted(configuration)
    assert any(note.startswith(where) and why in note for note in notes), notes


def test_how_tasks_are_asked_is_taken_over(converted: Any) -> None:
    data, _ = converted(short(limit=50, num_fewshot=3, apply_chat_template=False, fewshot_as_multiturn=False))
    assert data["score"] == {
        "tasks": [{"task": "demo_pick", "metric": "acc", "num_fewshot": 3}],
        "documents": {"search": 50},
        "apply_chat_template": False,
        "fewshot_as_multiturn": False,
    }


def test_it_is_printed_where_no_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "g.yml"
    source.write_text(yaml.safe_dump(short()))
    convert(source, None, None)
    assert yaml.safe_load(capsys.readouterr().out)["space"]["method"] == "ties"


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ("- a", "my genome.yml: has no section `genome`; "),
        ("{genome: {models: [a, b], merge_method: ties}}", "my genome.yml: tasks: is missing; "),
        (short({"merge_method": "della"}), "my genome.yml: genome.merge_method: input should be 'linear', "),
        (short({"models": []}), "my genome.yml: genome.models: "),
        (short(limit=0), "my genome.yml: limit: "),
        (short({"base_model": None}), "my genome.yml: genome.base_model: ties needs one; add it"),
        (short({"models": [BASE]}), "my genome.yml: genome.models: names no model besides the base"),
        (short({"layer_granularity": 4}), "genome.layer_granularity: 6 layers are no multiple of 4; give a divisor"),
        (
            short({"layer_granularity": 4, "base_model": "org/x"}),
            "genome.layer_granularity: is 4 layers a block, and org/x",
        ),
        (short(tasks=[{"name": "a", "weight": 0}]), "tasks: none has a weight other than 0; give one"),
        ("genome: {models: [a]\n", "my genome.yml: is not valid YAML: "),
    ],
)
def test_what_cannot_be_converted(converted: Any, configuration: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        converted(configuration)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nothing_is_written_over(converted: Any, tmp_path: Path) -> None:
    converted(short())
    with pytest.raises(ConfigError, match=r"search\.yaml: is there already; name another file"):
        converted(short())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        convert(tmp_path / "none.yml", None, None)
