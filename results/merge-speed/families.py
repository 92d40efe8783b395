"""Make the checkpoints that the benchmarks merge: a base and three fine-tunes of it, bfloat16, Llama-shaped, random.

    python results/merge-speed/families.py FOLDER [--shape 125m|1b]

Weights are normal with a deviation of .02, fine-tunes add noise of .002, so that differences have as many distinct
magnitudes as a fine-tune has. FOLDER/NAME/{base,a,b,c} are checkpoints without a tokenizer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    # hidden, layers, intermediate, heads, key-value heads, vocabulary, tied
    "125m": (768, 12, 2048, 12, 12, 26_000, False),
    "1b": (2048, 16, 8192, 32, 8, 128_256, True),  # as Llama 3.2 1B
}
MODELS = ("base", "a", "b", "c")


def shapes(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every tensor's name and shape."""
    hidden, layers, inner, heads, kv_heads, vocabulary, tied = SHAPES[name]
    narrow = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.self_attn.q_proj.weight", (hidden, hidden)
        yield f"{at}.self_attn.k_proj.weight", (narrow, hidden)
        yield f"{at}.self_attn.v_proj.weight", (narrow, hidden)
        yield f"{at}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
        yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{at}.mlp.up_proj.weight", (inner, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocabulary, hidden)


def config(name: str) -> dict[str, object]:
    """Return config.json."""
    hidden, layers, inner, heads, kv_heads, vocabulary, tied = SHAPES[name]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "intermediate_size": inner, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "tie_word_embeddings": tied,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
    }  # fmt: skip


def make(folder: Path, name: str) -> Path:
    """Write the family unless it is there; return its folder."""
    family = folder / name
    if (family / "c" / "model.safetensors").exists():
        return family
    for number, model in enumerate(MODELS):
        tensors = {}
        for place, (tensor, shape) in enumerate(shapes(name)):
            generator = torch.Generator().manual_seed(place)
            weights = torch.randn(shape, generator=generator) * 0.02 + (1.0 if len(shape) == 1 else 0.0)
            if number:
                generator.manual_seed(1000 * number + place)
                weights += torch.randn(shape, generator=generator) * 0.002
            tensors[tensor] = weights.bfloat16()
        (family / model).mkdir(parents=True, exist_ok=True)
        (family / model / "config.json").write_text(json.dumps(config(name), indent=2))
        save_file(tensors, family / model / "model.safetensors", metadata={"format": "pt"})
    return family


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parsed = parser.parse_args()
    for shape in parsed.shape or SHAPES:
        print(make(parsed.folder, shape))
