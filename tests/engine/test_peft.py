"""Adapters as PEFT writes them: tensor by tensor the same as PEFT's own merge of the whole model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.recipe import Recipe
from engine.write import merge_to_folder

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

_SMALL = {
    "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def model(kind: str, tied: bool = False) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=37, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
        )
    elif kind == "bert":
        config = transformers.BertConfig(
            vocab_size=37, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
        return transformers.BertForSequenceClassification(config).eval()
    elif kind == "gemma3":
        config = transformers.Gemma3TextConfig(**_SMALL, head_dim=4)
    else:
        config = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[kind](
            **_SMALL, tie_word_embeddings=tied
        )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def adapted(kind: str, folder: Path, tied: bool = False, **config: Any) -> tuple[str, Any]:
    """Write a base and an adapter whose every tensor was trained (made random); return both's name and PEFT's model."""
    base = model(kind, tied)
    base.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of tied weights and of fan_in_fan_out
        made = peft.get_peft_model(base, peft.LoraConfig(**{"r": 4, "lora_alpha": 6} | config)).eval()
        generator = torch.Generator().manual_seed(1)
        for name, parameter in sorted(made.named_parameters()):
            if parameter.requires_grad:
                parameter.data.copy_(parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator))
                assert "original" not in name
        made.save_pretrained(folder / "adapter")
    return f"{folder / 'base'}+{folder / 'adapter'}", made


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "rslora": ("llama", {"target_modules": "all-linear", "use_rslora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "k_proj", "up_proj", "down_proj"],
            "rank_pattern": {"k_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
            "alpha_pattern": {"q_proj": 3, r"layers\.\d+\.mlp\..*_proj": 11, "model.layers.0.self_attn.k_proj": 5},
        },
    ),
    "head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "saved modules": ("llama", {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "v_proj"]}),
    "embedding and head": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "biases of the targets": ("qwen2", {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    "all biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "Conv1D, not said": ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    "Conv1D, biases": ("gpt2", {"target_modules": ["c_fc"], "bias": "all", "fan_in_fan_out": True}),
    "classifier": ("bert", {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_equals_pefts_merge(case: str, tmp_path: Path) -> None:
    kind, config = CASES[case]
    reference, made = adapted(kind, tmp_path, **config)
    checkpoint = open_checkpoint(reference)
    base = open_checkpoint(str(tmp_path / "base"))
    merged = made.merge_and_unload().state_dict()
    changed = 0
    for name in checkpoint.tensors:
        torch.testing.assert_close(checkpoint.read(name), merged[name], msg=name)
        changed += not torch.equal(merged[name], base.read(name))
    assert changed >= 2
    assert checkpoint.tensors.keys() == base.tensors.keys()


TIED: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "kept tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "saved and kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "neither": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("case", TIED)
def test_tied_models_compute_what_the_adapter_was_trained_to(case: str, kind: str, tmp_path: Path) -> None:
    config = dict(TIED[case])
    if kind == "gpt2":
        named = {"q_proj": "c_attn", "embed_tokens": "wte"}
        for key in ("target_modules", "modules_to_save"):
            if key in config:
                config[key] = [named.get(name, name) for name in config[key]]
    reference, made = adapted(kind, tmp_path, tied=True, **config)
    recipe = Recipe.from_yaml(f"{{merge_method: linear, models: [{{model: {reference}, parameters: {{weight: 1}}}}]}}")
    merge_to_folder(recipe, tmp_path / "out")
    merged, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(tokens).logits, made(tokens).logits, rtol=1e-4, atol=1e-4)
    tied = ["saved and kept tied", "neither"] + ["kept tied"] * (kind != "gpt2")  # PEFT does not find GPT-2's tie
    assert merged.config.tie_word_embeddings is (case in tied)


def test_a_base_that_is_tied_without_saying_so_is_parted_in_the_result(tmp_path: Path) -> None:
    reference, made = adapted("gemma3", tmp_path, target_modules=["lm_head"])
    path = tmp_path / "base" / "config.json"
    config = json.loads(path.read_text())
    del config["tie_word_embeddings"]
    path.write_text(json.dumps(config))
    recipe = Recipe.from_yaml(
        f"{{merge_method: task_arithmetic, base_model: {tmp_path / 'base'},"
        f" models: [{{model: {reference}, parameters: {{weight: 1}}}}]}}"
    )
    merge_to_folder(recipe, tmp_path / "out")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, made(tokens).logits, rtol=1e-4, atol=1e-4)
