from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError

Make = Callable[..., str]
NAME = "model.layers.1.self_attn.q_proj"
STEM = f"base_model.model.{NAME}"


def adapter(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> str:
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    factors = {
        f"{STEM}.lora_A.weight": torch.randn(2, 8, generator=generator),
        f"{STEM}.lora_B.weight": torch.randn(8, 2, generator=generator),
    }
    save_file(factors if tensors is None else tensors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / math.sqrt(2)),
        ({"alpha_pattern": {"q_proj": 4}}, 2.0),
        ({"alpha_pattern": {"k_proj": 4}}, 3.0),
        ({"fan_in_fan_out": True}, 3.0),
    ],
)
def test_adds_the_scaled_product(make: Make, tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    base = open_checkpoint(make("base", dtype=torch.bfloat16))
    adapted = open_checkpoint(f"{base.reference}+{adapter(tmp_path / 'lora', **config)}")
    assert adapted.adapter is not None
    shard = adapted.adapter.shard
    delta = shard.read(f"{STEM}.lora_B.weight") @ shard.read(f"{STEM}.lora_A.weight")
    delta = delta.T if config.get("fan_in_fan_out") else delta
    for name in base.tensors:
        want = base.read(name)
        if name == f"{NAME}.weight":
            torch.testing.assert_close(adapted.read(name), want.float() + scale * delta)
        else:
            assert torch.equal(adapted.read(name), want), name
    assert adapted.fingerprint() != base.fingerprint()


@pytest.mark.parametrize("transposed", [False, True])
def test_any_rows_have_the_bits_of_the_whole(make: Make, tmp_path: Path, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    inside, outside = (48, 700) if transposed else (700, 48)
    factors = {
        f"{STEM}.lora_A.weight": torch.randn(2, outside, generator=generator),
        f"{STEM}.lora_B.weight": torch.randn(inside, 2, generator=generator),
    }
    base = make("base", changes={f"{NAME}.weight": torch.randn(700, 48, generator=generator).bfloat16()})
    adapted = open_checkpoint(f"{base}+{adapter(tmp_path / 'lora', factors, fan_in_fan_out=transposed)}")
    for name in (f"{NAME}.weight", "model.norm.weight"):
        whole = adapted.read(name)
        for rows in (slice(0, 1), slice(3, 300), slice(256, 512), slice(511, 700), slice(600, 900), slice(5, 5)):
            assert torch.equal(adapted.read(name, rows), whole[rows])


def test_saved_modules_replace_tensors(make: Make, tmp_path: Path) -> None:
    whole = {"base_model.model.model.norm.weight": torch.arange(8.0)}
    adapted = open_checkpoint(f"{make('base')}+{adapter(tmp_path / 'lora', whole)}")
    assert torch.equal(adapted.read("model.norm.weight"), torch.arange(8.0))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "kind IA3"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"r": 4}, "rank 2"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "years"),
        ({"alpha_pattern": {"(a|a)*$": 4}}, "years"),
        ({"alpha_pattern": {".*.*.*.*x": 4}}, "years"),
        ({"alpha_pattern": {"a{2,}{2,}{2,}": 4}}, "years"),
        ({"alpha_pattern": {"[": 4}}, "no regular expression"),
        ({"alpha_pattern": ["q_proj"]}, "does not map"),
        ({"alpha_pattern": {"q_proj": "x"}}, "does not map"),
    ],
)
def test_other_kinds_are_refused(make: Make, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(f"{make('base')}+{adapter(tmp_path / 'lora', **config)}")


def test_adapters_of_other_models_and_halves(make: Make, tmp_path: Path) -> None:
    base = make("base")
    a, b = torch.zeros(2, 5), torch.zeros(8, 2)
    with pytest.raises(CheckpointError, match="another base"):
        open_checkpoint(f"{base}+" + adapter(tmp_path / "1", {f"{STEM}.lora_A.weight": a, f"{STEM}.lora_B.weight": b}))
    with pytest.raises(CheckpointError, match="incomplete"):
        open_checkpoint(f"{base}+" + adapter(tmp_path / "2", {f"{STEM}.lora_A.weight": a}))
    with pytest.raises(CheckpointError, match="does not store"):
        open_checkpoint(f"{base}+" + adapter(tmp_path / "3", {"base_model.model.x.weight": a}))
    with pytest.raises(CheckpointError, match="BASE"):
        open_checkpoint(adapter(tmp_path / "4"))
