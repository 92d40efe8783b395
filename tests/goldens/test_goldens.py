"""Our merges against those of mergekit 0.1.5 (see README.md beside this file)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from engine.recipe import Recipe
from engine.write import merge_to_folder

FOLDER = Path(__file__).resolve().parent
MODELS = FOLDER / "models"
RECIPES = sorted(path.stem for path in (FOLDER / "recipes").glob("*.yaml"))
TIED_MAGNITUDES = "ties_bf16_float32_out_bf16"


def absolute(node: Any) -> Any:
    """Models of a recipe as paths."""
    if isinstance(node, dict):
        known = ("model", "base_model")
        return {key: str(MODELS / value) if key in known else absolute(value) for key, value in node.items()}
    return [absolute(item) for item in node] if isinstance(node, list) else node


def vocabulary(path: Path) -> dict[str, int]:
    content = json.loads(path.read_text())
    return content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}


def by_token(tensors: dict[str, torch.Tensor], ids: dict[str, int]) -> dict[str, torch.Tensor]:
    rows = torch.tensor([ids[token] for token in sorted(ids)])
    outer = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: tensor[rows] if name in outer else tensor for name, tensor in tensors.items()}


def merged(name: str, out: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Merge a recipe; return the expected and the actual tensors."""
    recipe = Recipe.model_validate(absolute(yaml.safe_load((FOLDER / "recipes" / f"{name}.yaml").read_text())))
    merge_to_folder(recipe, out)
    actual, expected = load_file(out / "model.safetensors"), load_file(FOLDER / "expected" / f"{name}.safetensors")
    facts = json.loads((FOLDER / "expected" / f"{name}.json").read_text())
    config = json.loads((out / "config.json").read_text())
    assert {key: config[key] for key in facts["config"]} == facts["config"]
    if wanted := facts.get("vocabulary"):
        given = vocabulary(out / "tokenizer.json")
        assert set(given) == set(wanted)
        return by_token(expected, wanted), by_token(actual, given)
    return expected, actual


def distance(expected: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Element by element, relative to the tensor's largest magnitude, in tolerances."""
    assert expected.shape == actual.shape
    assert expected.dtype == actual.dtype
    tolerance = 1e-5 if expected.dtype == torch.float32 else 2 * 2**-8
    scale = expected.float().abs().max().item() or 1.0
    return (expected.float() - actual.float()).abs() / scale / tolerance


@pytest.mark.parametrize("name", [name for name in RECIPES if name != TIED_MAGNITUDES])
def test_equals_mergekit(name: str, tmp_path: Path) -> None:
    expected, actual = merged(name, tmp_path / "out")
    assert set(expected) == set(actual)
    for tensor in expected:
        assert distance(expected[tensor], actual[tensor]).max() <= 1, tensor


def test_equals_mergekit_but_for_tied_magnitudes(tmp_path: Path) -> None:
    expected, actual = merged(TIED_MAGNITUDES, tmp_path / "out")
    models = {m: load_file(MODELS / f"bf16_{m}" / "model.safetensors") for m in ("base", "a", "b", "c")}
    off = 0
    for name in expected:
        at_threshold = torch.zeros(expected[name].shape, dtype=torch.bool)
        for model, density in (("a", 0.5), ("b", 0.4), ("c", 0.7)):
            magnitude = (models[model][name].float() - models["base"][name].float()).abs()
            k = max(1, int(density * magnitude.numel()))
            at_threshold |= magnitude == magnitude.flatten().sort(descending=True).values[k - 1]
        far = distance(expected[name], actual[name]) > 1
        assert not (far & ~at_threshold).any(), name
        off += int(far.sum())
    assert off < 0.01 * sum(tensor.numel() for tensor in expected.values())
