"""Modules and slices on tiny models that transformers made: what is written loads with nothing missing or left over."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.errors import RecipeError
from engine.merge import merge
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.write import write_checkpoint

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def t5() -> Any:
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2)
    config.num_decoder_layers = 2
    return transformers.T5ForConditionalGeneration(config)


def whisper() -> Any:
    config = transformers.WhisperConfig(
        vocab_size=32, d_model=16, encoder_layers=3, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=8, max_source_positions=8,
        max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def gemma3() -> Any:
    text = {
        **SMALL,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    return transformers.Gemma3ForConditionalGeneration(config)


def gemma3_text() -> Any:
    types = ["sliding_attention", "full_attention"] * 2
    return transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(**SMALL, num_hidden_layers=4, sliding_window=8, layer_types=types)
    )


def qwen2() -> Any:
    config = transformers.Qwen2Config(
        **SMALL, num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2
    )
    return transformers.Qwen2ForCausalLM(config)


def qwen3() -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SMALL, num_hidden_layers=4))


def qwen3_moe() -> Any:
    config = transformers.Qwen3MoeConfig(
        **SMALL, num_hidden_layers=4, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8, mlp_only_layers=[1]
    )
    return transformers.Qwen3MoeForCausalLM(config)


def qwen3_moe_every_second() -> Any:
    config = transformers.Qwen3MoeConfig(
        **SMALL,
        num_hidden_layers=4,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        decoder_sparse_step=2,
    )
    return transformers.Qwen3MoeForCausalLM(config)


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=3, n_head=2, n_positions=32)
    )


def pair(tmp_path: Path, build: Callable[[], Any]) -> tuple[str, str]:
    """Two models of one architecture, saved by transformers."""
    folders = []
    for i, name in enumerate("ab"):
        torch.manual_seed(i)
        build().save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    return folders[0], folders[1]


def made(**content: Any) -> Plan:
    recipe = Recipe.model_validate(content)
    return plan(recipe, {name: open_checkpoint(name) for name in recipe.references})


def loads(got: Plan, folder: Path) -> Any:
    """Write the plan and load it; nothing may be missing, unexpected or mismatched."""
    write_checkpoint(got, folder)
    kind = getattr(transformers, got.config["architectures"][0])
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not [problem for problem in info.values() if problem], info
    return model


def weighted(*names: str) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": {"weight": 1}} for name in names]


def layers(name: str, *ranges: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"sources": [{"model": name, "layer_range": list(span)}]} for span in ranges]


@pytest.mark.parametrize(
    ("build", "module", "prefixes"),
    [
        (t5, "encoder", ("encoder.",)),
        (t5, "decoder", ("decoder.", "lm_head.")),
        (whisper, "encoder", ("model.encoder.",)),
        (gemma3, "text_decoder", ("language_model.", "model.language_model.", "lm_head.")),
        (gemma3, "vision_tower", ("vision_tower.", "model.vision_tower.")),
    ],
)
def test_one_module_is_merged_the_others_are_copied(
    tmp_path: Path, build: Callable[[], Any], module: str, prefixes: tuple[str, ...]
) -> None:
    a, b = pair(tmp_path, build)
    got = made(merge_method="linear", modules={module: {"models": weighted(a, b)}}, parameters={"scale": 9})
    tensors = dict(merge(got))
    first, second = open_checkpoint(a), open_checkpoint(b)
    assert tensors.keys() == first.tensors.keys()
    merged = [name for name in tensors if name.startswith(prefixes)]
    assert merged
    for name, tensor in tensors.items():
        want = (first.read(name) + second.read(name)) / 2 if name in merged else first.read(name)
        torch.testing.assert_close(tensor, want, msg=name)
    loads(got, tmp_path / "out")


def test_all_modules_are_the_whole(tmp_path: Path) -> None:
    a, b = pair(tmp_path, gemma3)
    names = ("text_decoder", "vision_tower", "multi_modal_projector")
    parts = {name: {"models": weighted(a, b)} for name in names}
    one = dict(merge(made(merge_method="linear", modules=parts)))
    other = dict(merge(made(merge_method="linear", models=weighted(a, b))))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("build", "module", "ranges", "count"),
    [
        (t5, "encoder", [(0, 2), (0, 3)], lambda c: (c.num_layers, c.num_decoder_layers) == (5, 2)),
        (t5, "decoder", [(0, 1)], lambda c: (c.num_layers, c.num_decoder_layers) == (3, 1)),
        (whisper, "encoder", [(1, 3)], lambda c: (c.encoder_layers, c.decoder_layers) == (2, 2)),
        (whisper, "decoder", [(0, 2), (0, 2)], lambda c: (c.encoder_layers, c.decoder_layers) == (3, 4)),
        (gemma3, "vision_tower", [(0, 2), (1, 2)], lambda c: c.vision_config.num_hidden_layers == 3),
        (
            gemma3,
            "text_decoder",
            [(2, 4), (1, 4)],
            lambda c: (
                c.text_config.layer_types
                == [f"{k}_attention" for k in ("sliding", "full", "sliding", "sliding", "full")]
            ),
        ),
    ],
)
def test_slices_of_one_module(
    tmp_path: Path, build: Callable[[], Any], module: str, ranges: list[tuple[int, int]], count: Callable[[Any], bool]
) -> None:
    a, _ = pair(tmp_path, build)
    got = made(merge_method="passthrough", modules={module: {"slices": layers(a, *ranges)}})
    assert count(loads(got, tmp_path / "out").config)


@pytest.mark.parametrize("build", [qwen2, qwen3, qwen3_moe, gemma3_text, gpt2])
@pytest.mark.parametrize("ranges", [[(0, 2), (1, 3), (1, 3)], [(0, 1), (2, 3)], [(1, 3)]])
def test_stacked_layers_load_and_keep_their_kind(
    tmp_path: Path, build: Callable[[], Any], ranges: list[tuple[int, int]]
) -> None:
    a, b = pair(tmp_path, build)
    slices = [layers(name, span)[0] for name, span in zip([a, b, a], ranges, strict=False)]
    model = loads(made(merge_method="passthrough", slices=slices), tmp_path / "out")
    before = build().config
    chosen = [layer for low, high in ranges for layer in range(low, high)]
    assert model.config.num_hidden_layers == len(chosen)
    if hasattr(before, "layer_types") and before.layer_types:
        assert model.config.layer_types == [before.layer_types[layer] for layer in chosen]
    if hasattr(before, "mlp_only_layers"):
        assert model.config.mlp_only_layers == [i for i, layer in enumerate(chosen) if layer == 1]
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


def test_a_rule_by_number_becomes_a_list(tmp_path: Path) -> None:
    """Configs of older releases have no layer_types: the rule is applied to where each layer came from."""
    for rule, kinds in (
        ({"sliding_window_pattern": 2}, ["full_attention", "sliding_attention"]),
        ({"max_window_layers": 2, "use_sliding_window": True}, ["full_attention", "sliding_attention"]),
    ):
        folder, _ = pair(tmp_path, qwen3)
        path = Path(folder) / "config.json"
        config = copy.deepcopy(open_checkpoint(folder).config)
        for key in ("layer_types", "max_window_layers", "use_sliding_window"):
            config.pop(key, None)
        path.write_text(json.dumps(config | rule))
        got = made(merge_method="passthrough", slices=layers(folder, (1, 3)))
        assert got.config["layer_types"] == kinds


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"encodr": "models"}, r"modules\.encodr: .* has no such module; did you mean 'encoder'\? \(it has: .*encoder"),
        (
            {"decoder": "models", "text_decoder": "models"},
            r"modules\.text_decoder: the module decoder of .* stands twice",
        ),
        ({"shared": "slices"}, r"modules\.shared\.slices: the module shared has no layers; use models"),
        ({"encoder": "beyond"}, r"modules\.encoder\.slices\[0\]\.sources\[0\] .*goes beyond its 3 layers"),
        ({"encoder": "typo"}, r"modules\.encoder: linear has no 'wieght'; did you mean 'weight'"),
    ],
)
def test_modules_that_do_not_fit(tmp_path: Path, modules: dict[str, str], message: str) -> None:
    a, b = pair(tmp_path, t5)
    how: dict[str, Any] = {
        "models": {"models": weighted(a, b)},
        "slices": {"slices": layers(a, (0, 1)), "parameters": {"weight": 1}},
        "beyond": {"slices": layers(a, (0, 4)), "parameters": {"weight": 1}},
        "typo": {"models": weighted(a, b), "parameters": {"wieght": 1}},
    }
    with pytest.raises(RecipeError, match=message):
        made(merge_method="linear", modules={name: how[kind] for name, kind in modules.items()})


def test_slices_above_several_stacks(tmp_path: Path) -> None:
    a, _ = pair(tmp_path, t5)
    with pytest.raises(RecipeError, match=r"write them under modules: .*encoder"):
        made(merge_method="passthrough", slices=layers(a, (0, 1)))


def test_precedence_of_the_modules_parameters(tmp_path: Path) -> None:
    a, b = pair(tmp_path, t5)
    modules = {
        "encoder": {"models": [{"model": a}, {"model": b, "parameters": {"weight": 3}}], "parameters": {"weight": 1}},
        "decoder": {"models": [{"model": a}, {"model": b}]},
    }
    tensors = dict(merge(made(merge_method="linear", modules=modules, parameters={"weight": 7})))
    first, second = open_checkpoint(a), open_checkpoint(b)
    for name, part in (
        ("encoder.final_layer_norm.weight", 0.75),
        ("decoder.block.0.layer.0.SelfAttention.q.weight", 0.5),
    ):
        torch.testing.assert_close(tensors[name], (1 - part) * first.read(name) + part * second.read(name))


@pytest.mark.parametrize("ranges", [[(0, 2), (1, 3), (1, 3)], [(1, 3)], [(1, 2), (3, 4)]])
def test_every_second_layer_with_experts(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    a, _ = pair(tmp_path, qwen3_moe_every_second)
    model = loads(made(merge_method="passthrough", slices=layers(a, *ranges)), tmp_path / "out")
    chosen = [layer for low, high in ranges for layer in range(low, high)]
    assert model.config.mlp_only_layers == [i for i, layer in enumerate(chosen) if layer % 2 == 0]


def test_dense_layers_at_the_bottom(tmp_path: Path) -> None:
    a, _ = pair(tmp_path, qwen3)
    path = Path(a) / "config.json"
    path.write_text(json.dumps(open_checkpoint(a).config | {"first_k_dense_replace": 2}))
    for ranges, count in (([(0, 2), (1, 4)], 3), ([(0, 2), (0, 4)], 4), ([(1, 4)], 1), ([(2, 4)], 0)):
        got = made(merge_method="passthrough", slices=layers(a, *ranges))
        assert got.config["first_k_dense_replace"] == count
    with pytest.raises(RecipeError, match="dense layers would come after layers with experts"):
        made(merge_method="passthrough", slices=layers(a, (0, 3), (1, 4)))
