"""Tiny seeded checkpoints: random tensors under Llama's names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Make = Callable[..., str]


def llama_shapes(layers: int, vocabulary: int, width: int, tied: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, width)
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        shapes[f"{stem}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"{stem}.mlp.up_proj.weight"] = (2 * width, width)
        shapes[f"{stem}.input_layernorm.weight"] = (width,)
    return shapes


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(name, seed=..., tied=..., changes={tensor: Tensor or None}) writes a model and returns its folder."""

    def build(
        name: str,
        *,
        seed: int = 0,
        layers: int = 3,
        vocabulary: int = 11,
        width: int = 8,
        tied: bool = False,
        dtype: torch.dtype = torch.float32,
        changes: dict[str, torch.Tensor | None] | None = None,
        **config: Any,
    ) -> str:
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for key, shape in llama_shapes(layers, vocabulary, width, tied).items():
            tensors[key] = torch.randn(shape, generator=generator).to(dtype)
        for key, value in (changes or {}).items():
            if value is None:
                del tensors[key]
            else:
                tensors[key] = value
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        plain = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": layers}
        plain |= {"vocab_size": vocabulary, "tie_word_embeddings": tied, "dtype": str(dtype).removeprefix("torch.")}
        (folder / "config.json").write_text(json.dumps(plain | config))
        (folder / "tokenizer.json").write_text("{}")
        return str(folder)

    return build
