from __future__ import annotations

import pytest

from engine.layout import WHOLE, read_layout

LLAVA = [
    "model.vision_tower.embeddings.patch.weight", "model.vision_tower.encoder.layers.0.a.weight",
    "model.vision_tower.encoder.layers.1.a.weight", "model.multi_modal_projector.linear_1.weight",
    "model.language_model.embed_tokens.weight", "model.language_model.layers.0.a.weight",
    "model.language_model.norm.weight", "lm_head.weight",
]  # fmt: skip
QWEN_VL = [
    "visual.patch_embed.proj.weight", "visual.blocks.0.a.weight", "visual.blocks.1.a.weight",
    "visual.blocks.2.a.weight", "visual.merger.mlp.0.weight", "visual.merger.mlp.2.weight",
    "model.embed_tokens.weight", "model.layers.0.a.weight", "model.norm.weight", "lm_head.weight",
]  # fmt: skip
T5 = [
    "shared.weight", "encoder.block.0.layer.0.a.weight", "encoder.final_layer_norm.weight",
    "decoder.block.0.layer.0.a.weight", "decoder.final_layer_norm.weight", "lm_head.weight",
]  # fmt: skip
WHISPER = [
    "model.encoder.conv1.weight", "model.encoder.layers.0.a.weight", "model.decoder.embed_tokens.weight",
    "model.decoder.layers.0.a.weight", "model.decoder.layer_norm.weight",
]  # fmt: skip
LLAMA = ["model.embed_tokens.weight", "model.layers.0.a.weight", "model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    ("names", "modules", "head_module"),
    [
        (LLAVA, {"vision_tower": 3, "multi_modal_projector": 1, "language_model": 4}, "language_model"),
        (QWEN_VL, {"visual": 6, "model": 4}, "model"),
        (T5, {"shared": 1, "encoder": 2, "decoder": 3}, "decoder"),
        (WHISPER, {"encoder": 2, "decoder": 3}, "decoder"),
        (LLAMA, {WHOLE: 4}, WHOLE),
        (["a.weight", "b.weight"], {WHOLE: 2}, WHOLE),
    ],
)
def test_every_tensor_is_in_one_module(names: list[str], modules: dict[str, int], head_module: str) -> None:
    got = read_layout(names)
    assert {module: len(held) for module, held in got.modules.items()} == modules
    assert sorted(name for held in got.modules.values() for name in held) == sorted(names)
    assert got.head_module == head_module


def test_the_tallest_stack_is_a_module_s_own() -> None:
    assert read_layout(QWEN_VL).stacks == {"visual": "visual.blocks.", "model": "model.layers."}
    assert read_layout(T5).stacks == {"shared": None, "encoder": "encoder.block.", "decoder": "decoder.block."}


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (LLAVA, "text_decoder", "language_model"),
        (LLAVA, "visual", "vision_tower"),
        (LLAVA, "multi_modal_projector", "multi_modal_projector"),
        (LLAVA, "connector", "multi_modal_projector"),
        (LLAVA, "audio", None),
        (QWEN_VL, "text_decoder", "model"),
        (QWEN_VL, "vision_tower", "visual"),
        (QWEN_VL, "multi_modal_projector", None),
        (T5, "encoder", "encoder"),
        (T5, "text_decoder", "decoder"),
        (LLAMA, "default", "default"),
        (LLAMA, "text_decoder", "default"),
        (LLAMA, "decoder", None),
    ],
)
def test_usual_names(names: list[str], wanted: str, found: str | None) -> None:
    assert read_layout(names).find(wanted) == found
