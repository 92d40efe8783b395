"""LoRA adapters in PEFT's format, added to a base tensor by tensor: W' = W + s B A (Hu et al. 2021, eq. 3)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.errors import CheckpointError
from engine.shard import Shard, TensorInfo

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$")
# Variants of LoRA whose weights are not W + s B A, or that change the base they were trained on.
_REFUSED = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config",
)  # fmt: skip
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Adapter:
    """The deltas of one LoRA adapter, by the name of the base's tensor they change."""

    def __init__(self, folder: Path) -> None:
        """Read `adapter_config.json` and the header of the weights. Raises CheckpointError naming the folder."""
        self.folder = folder
        self.config = _read_config(folder)
        path = folder / "adapter_model.safetensors"
        if not path.is_file():
            raise CheckpointError(f"{folder}: has no adapter_model.safetensors; save the adapter as safetensors")
        self.shard = Shard(path)
        self._factors: dict[str, dict[str, str]] = {}
        self._whole: dict[str, str] = {}
        for key in self.shard.tensors:
            self._sort(key)
        for name, factors in self._factors.items():
            if len(factors) != 2:
                raise CheckpointError(f"{folder}: {name} has lora_A or lora_B only; the adapter is incomplete")

    def _sort(self, key: str) -> None:
        """Note which tensor of the base a stored tensor changes: by a factor of a delta, or as a whole."""
        name = key.removeprefix(_PREFIX)
        if found := _FACTOR.match(name):
            kind = found[3] if found[2] is None else f"embedding_{found[3]}"
            self._factors.setdefault(f"{found[1]}.weight", {})[kind] = key
        elif "lora_" in name:
            raise CheckpointError(f"{self.folder}: {key} is of a kind of adapter that is not supported (only LoRA)")
        else:
            self._whole[name] = key  # modules_to_save

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the base's tensors that change."""
        return (*self._factors, *self._whole)

    def check(self, tensors: Mapping[str, TensorInfo]) -> None:
        """Raise CheckpointError unless every delta has a tensor of its shape in the base."""
        for name in self.names:
            if name not in tensors:
                raise CheckpointError(
                    f"{self.folder}: changes {name}, which the base does not store; merge it with PEFT"
                )
            if (shape := self._shape(name)) != tensors[name].shape:
                raise CheckpointError(
                    f"{self.folder}: the delta of {name} has shape {shape}, the base's tensor {tensors[name].shape};"
                    " it belongs to another base"
                )

    def _shape(self, name: str) -> tuple[int, ...]:
        stored = self.shard.tensors
        if name in self._whole:
            return stored[self._whole[name]].shape
        a, b = (stored[key].shape for _, key in sorted(self._factors[name].items()))
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise CheckpointError(
                f"{self.folder}: {name} has factors of shapes {a} and {b}; only matrices are supported"
            )
        if not self.config.get("rank_pattern") and a[0] != self.config["r"]:
            raise CheckpointError(f"{self.folder}: {name} has rank {a[0]}, adapter_config.json says {self.config['r']}")
        return (a[1], b[0]) if self._transposed(name) else (b[0], a[1])

    def _transposed(self, name: str) -> bool:
        return "embedding_A" in self._factors[name] or bool(self.config.get("fan_in_fan_out"))

    def scale(self, name: str) -> float:
        """Return s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023)."""
        module = name.removesuffix(".weight")
        rank = self.shard.tensors[min(self._factors[name].items())[1]].shape[0]
        alpha = self.config["lora_alpha"]
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):  # as PEFT reads the keys
                alpha = value
                break
        return float(alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank)

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the adapted weight in float32."""
        if name in self._whole:
            return self.shard.read(self._whole[name]).float()
        a, b = (self.shard.read(key).float() for _, key in sorted(self._factors[name].items()))
        delta = b @ a
        return weight.float() + self.scale(name) * (delta.T if self._transposed(name) else delta)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise CheckpointError(f"{folder}: is an adapter of kind {kind}; only LORA is supported")
    for key in ("r", "lora_alpha"):
        if isinstance(config.get(key), bool) or not isinstance(config.get(key), (int, float)) or config["r"] <= 0:
            raise CheckpointError(f"{path}: {key} is {config.get(key)!r}, not a positive number")
    for key in _REFUSED:
        if config.get(key):
            raise CheckpointError(f"{folder}: uses {key}, which is not supported; merge it with PEFT first")
    try:
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            re.compile(pattern)
            float(value)
    except (re.error, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: alpha_pattern cannot be read: {error}") from None
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{folder}: trains biases (bias: {config['bias']}); merge it with PEFT first")
    if str(config.get("init_lora_weights")).lower().startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{folder}: was initialised with {config['init_lora_weights']}, which changes the base's weights; convert"
            " it to plain LoRA or merge it with PEFT first"
        )
    return config
