"""Tiny random models of many families, made and loaded by transformers: no list of architectures is kept anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.architecture import embedding_name, head_name, is_before_layers, layer_count
from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError
from engine.recipe import Recipe
from engine.write import merge_to_folder

transformers = pytest.importorskip("transformers")

_TEXT = {
    "vocab_size": 67, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_ENCODER = {
    "vocab_size": 67, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A family's classes and a tiny configuration. `stored`: how the sources are saved."""

    config: str
    model: str
    settings: dict[str, Any]
    stored: str = "safetensors"  # or "shards", "bin"
    slices: bool = True


def _vision(model: str) -> dict[str, Any]:
    text = _TEXT | {"hidden_size": 16, "head_dim": 4}
    if model == "llava":
        vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision |= {"image_size": 8, "patch_size": 4, "model_type": "clip_vision_model"}
        return {"text_config": text | {"model_type": "llama"}, "vision_config": vision, "image_token_index": 5}
    vision = {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "mlp_ratio": 2, "patch_size": 4}
    rope = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1], "rope_theta": 10000.0}}
    return {"text_config": text | rope, "vision_config": vision}


FAMILIES = {
    "Llama": Family("LlamaConfig", "LlamaForCausalLM", _TEXT, "shards"),
    "Llama, tied": Family("LlamaConfig", "LlamaForCausalLM", _TEXT | {"tie_word_embeddings": True}, "bin"),
    "Mistral": Family("MistralConfig", "MistralForCausalLM", _TEXT | {"sliding_window": 8}),
    "Qwen2": Family("Qwen2Config", "Qwen2ForCausalLM", _TEXT | {"tie_word_embeddings": True}),
    "Qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", _TEXT | {"head_dim": 4}, "bin"),
    "Gemma 3": Family("Gemma3TextConfig", "Gemma3ForCausalLM", _TEXT | {"head_dim": 4, "sliding_window": 8}),
    "Phi-3": Family("Phi3Config", "Phi3ForCausalLM", _TEXT, "shards"),
    "GPT-2": Family(
        "GPT2Config", "GPT2LMHeadModel",
        {"vocab_size": 67, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}, "bin",
    ),
    "GPT-NeoX": Family("GPTNeoXConfig", "GPTNeoXForCausalLM", _TEXT),
    "OLMo 2": Family("Olmo2Config", "Olmo2ForCausalLM", _TEXT),
    "Mixtral": Family("MixtralConfig", "MixtralForCausalLM", _TEXT | {"num_local_experts": 4}, "shards"),
    "Qwen3-MoE": Family("Qwen3MoeConfig", "Qwen3MoeForCausalLM", _TEXT | _EXPERTS | {"head_dim": 4}),
    "Mamba": Family(
        "MambaConfig", "MambaForCausalLM",
        {"vocab_size": 67, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 3, "time_step_rank": 2},
    ),
    "T5": Family(
        "T5Config", "T5ForConditionalGeneration",
        {"vocab_size": 67, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
        slices=False,
    ),
    "BERT": Family("BertConfig", "BertForMaskedLM", _ENCODER, "shards"),
    "RoBERTa": Family("RobertaConfig", "RobertaForMaskedLM", _ENCODER, "bin"),
    "Whisper": Family(
        "WhisperConfig", "WhisperForConditionalGeneration",
        {"vocab_size": 67, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 8,
         "max_source_positions": 16, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2, "decoder_start_token_id": 3},
        slices=False,
    ),
    "LLaVA": Family("LlavaConfig", "LlavaForConditionalGeneration", _vision("llava"), slices=False),
    "Qwen2-VL": Family("Qwen2VLConfig", "Qwen2VLForConditionalGeneration", _vision("qwen2"), "shards", slices=False),
}  # fmt: skip


def write_sources(family: Family, folder: Path) -> list[str]:
    """Write a base and two fine-tunes (the base plus noise); return their folders."""
    torch.manual_seed(0)
    model = getattr(transformers, family.model)(getattr(transformers, family.config)(**family.settings))
    folders = []
    for name in ("base", "first", "second"):
        target = folder / name
        if family.stored == "bin":
            target.mkdir()
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(target)
            # Older files have a buffer of integers that newer ones have not.
            ids = {"roberta.embeddings.position_ids": torch.arange(64)[None]} if "Roberta" in family.model else {}
            torch.save({**model.state_dict(), **ids}, target / "pytorch_model.bin")
        else:
            model.save_pretrained(target, max_shard_size="20KB" if family.stored == "shards" else "5GB")
        folders.append(str(target))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
    return folders


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, by other means than ours."""
    if (folder / "pytorch_model.bin").exists():
        return dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def linear(base: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    return base + 0.3 * deltas[0] + 0.7 * deltas[1]


def task_arithmetic(base: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    return base + 0.4 * deltas[0] + 0.9 * deltas[1]


def ties(base: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    kept = deltas.flatten(1).clone()
    for row in kept:
        row[row.abs().argsort()[: row.numel() - max(int(0.5 * row.numel()), 1)]] = 0
    weighted = kept * torch.tensor([[0.4], [0.9]])
    agree = weighted.sign() == weighted.sum(0).sign()
    total = (agree * torch.tensor([[0.4], [0.9]])).sum(0)
    return base + ((weighted * agree).sum(0) / torch.where(total == 0, 1.0, total)).view(base.shape)


METHODS: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "linear": (linear, "weight: {weight}"),
    "task_arithmetic": (task_arithmetic, "weight: {weight}, normalize: false"),
    "ties": (ties, "weight: {weight}, density: 0.5, normalize: true"),
}


def recipe_of(method: str, folders: list[str]) -> Recipe:
    weights = (0.3, 0.7) if method == "linear" else (0.4, 0.9)
    models = [
        f"{{model: {folder}, parameters: {{{METHODS[method][1].format(weight=weight)}}}}}"
        for folder, weight in zip(folders[1:], weights, strict=True)
    ]
    base = "" if method == "linear" else f"base_model: {folders[0]}, "
    return Recipe.from_yaml(f"{{merge_method: {method}, {base}models: [{', '.join(models)}], dtype: float32}}")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    made: dict[str, list[str]] = {}

    def of(name: str) -> list[str]:
        if name not in made:
            made[name] = write_sources(FAMILIES[name], tmp_path_factory.mktemp("family"))
        return made[name]

    return of


def load(family: Family, folder: Path) -> Any:
    model, told = getattr(transformers, family.model).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_merges_of_every_family_load_and_equal_plain_torch(
    name: str, method: str, sources: Callable[[str], list[str]], tmp_path: Path
) -> None:
    folders = sources(name)
    merge_to_folder(recipe_of(method, folders), tmp_path / "out")
    base, *tuned = (stored(Path(folder)) for folder in folders)
    merged = stored(tmp_path / "out")
    for key, tensor in merged.items():
        if base[key].is_floating_point():
            deltas = torch.stack([each[key] - base[key] for each in tuned])
            torch.testing.assert_close(tensor, METHODS[method][0](base[key], deltas), rtol=1e-5, atol=1e-5, msg=key)
        else:
            assert torch.equal(tensor, base[key])
    if method == "linear":
        loaded = load(FAMILIES[name], tmp_path / "out").state_dict()
        states = [load(FAMILIES[name], Path(folder)).state_dict() for folder in folders]
        assert loaded.keys() == states[0].keys()
        for key, tensor in loaded.items():
            if tensor.is_floating_point():
                want = 0.3 * states[1][key] + 0.7 * states[2][key]
                torch.testing.assert_close(tensor, want, rtol=1e-5, atol=1e-5, msg=key)
    elif method == "ties":
        load(FAMILIES[name], tmp_path / "out")


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.slices])
def test_a_layer_may_stand_twice(name: str, sources: Callable[[str], list[str]], tmp_path: Path) -> None:
    folder = sources(name)[1]
    recipe = Recipe.from_yaml(
        "{merge_method: passthrough, dtype: float32, slices:"
        f" [{{sources: [{{model: {folder}, layer_range: [0, 2]}}]}},"
        f" {{sources: [{{model: {folder}, layer_range: [1, 3]}}]}}]}}"
    )
    merge_to_folder(recipe, tmp_path / "out")
    model = load(FAMILIES[name], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert 4 in (config.get("num_hidden_layers"), config.get("n_layer"))
    with torch.no_grad():
        assert bool(torch.isfinite(model(torch.arange(3, 9)[None]).logits).all())


@pytest.mark.parametrize("name", FAMILIES)
def test_embedding_and_head_are_found_by_name(name: str, sources: Callable[[str], list[str]]) -> None:
    folder = sources(name)[0]
    checkpoint = open_checkpoint(folder)
    model = load(FAMILIES[name], Path(folder))
    found = embedding_name(checkpoint.tensors)
    assert found is not None
    assert torch.equal(checkpoint.read(found), model.get_input_embeddings().weight)
    assert is_before_layers(found)
    own, head = head_name(checkpoint.tensors), model.get_output_embeddings().weight
    if own is None:
        assert head is model.get_input_embeddings().weight
    else:
        assert torch.equal(checkpoint.read(own), head)
        assert not is_before_layers(own)
    text = model.config.get_text_config()
    assert layer_count(checkpoint.tensors) == getattr(text, "num_hidden_layers", None)


def test_integers_are_carried_over_where_the_models_agree(make: Callable[..., str], tmp_path: Path) -> None:
    folders = [make(f"{i}", seed=i, changes={"buffer": torch.arange(3) + (i > 1)}) for i in range(3)]
    for several in (folders[:2], folders[1:]):
        models = ", ".join(f"{{model: {folder}, parameters: {{weight: 1}}}}" for folder in several)
        recipe = Recipe.from_yaml(f"{{merge_method: linear, models: [{models}]}}")
        if several == folders[:2]:
            merge_to_folder(recipe, tmp_path / "out")
            assert torch.equal(stored(tmp_path / "out")["buffer"], torch.arange(3))
        else:
            with pytest.raises(CheckpointError, match=r"buffer.*differs"):
                merge_to_folder(recipe, tmp_path / "other")
