"""LoRA adapters in PEFT's format, added to a base tensor by tensor: W' = W + s B A (Hu et al. 2021, eq. 3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from engine.adapter_config import read_adapter_config, scaling
from engine.architecture import head_name, split_layer
from engine.errors import CheckpointError
from engine.shard import TensorInfo
from engine.weights import open_adapter_weights

_PREFIX = "base_model.model."
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")
"""PEFT's own modules around one of the base's."""
_FACTOR = re.compile(r"^(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$")
_BLOCK = 256
"""Rows of a delta that are computed at once, counted from row 0, so that any part of a tensor has the same bits."""


@dataclass(frozen=True)
class Delta:
    """What an adapter does to one tensor: puts `whole` in its place, adds `scale` B A, or both in this order.

    The keys name tensors of the adapter. `transposed`: the base's tensor has the shape of (B A)^T.
    """

    whole: str | None = None
    a: str | None = None
    b: str | None = None
    scale: float = 0.0
    transposed: bool = False


class Adapter:
    """The weights of one LoRA adapter."""

    def __init__(self, folder: Path) -> None:
        """Read `adapter_config.json` and the header of the weights. Raises CheckpointError naming the folder."""
        self.folder = folder
        self.config = read_adapter_config(folder)
        self.shard = open_adapter_weights(folder)
        self._found = self._deltas()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors that change, as the adapter has them."""
        return tuple(self._found)

    @property
    def keeps_ties(self) -> bool:
        """Whether a head that is tied to the embedding shares its delta too, which then is stored twice.

        Asked to keep ties, PEFT does so where it finds them, and leaves the head as it was elsewhere (GPT-2).
        """
        return bool(self.config.get("ensure_weight_tying")) and head_name(self._found) is not None

    def _deltas(self) -> dict[str, Delta]:
        """Return what happens to which tensor, sorted by name."""
        whole: dict[str, str] = {}
        factors: dict[str, dict[str, str]] = {}
        embeddings: list[str] = []
        for key in self.shard.tensors:
            name = _WRAPPERS.sub("", key.removeprefix(_PREFIX))
            if found := _FACTOR.match(name):
                factors.setdefault(f"{found[1]}.weight", {})[found[3]] = key
                if found[2]:
                    embeddings.append(f"{found[1]}.weight")
            elif "lora_" in name:
                raise CheckpointError(f"{self.folder}: {key} is of a kind of adapter that is not supported (only LoRA)")
            else:
                whole[name] = key  # modules_to_save, trained biases, saved embeddings
        for name, pair in factors.items():
            if len(pair) != 2:
                raise CheckpointError(f"{self.folder}: {name} has lora_A or lora_B only; the adapter is incomplete")
        ranks = {name: self._rank(name, pair["A"], pair["B"]) for name, pair in sorted(factors.items())}
        scales = scaling(self.folder, self.config, {name.removesuffix(".weight"): rank for name, rank in ranks.items()})
        transposed = bool(self.config.get("fan_in_fan_out"))
        deltas = {
            name: Delta(
                whole.get(name), factors[name]["A"], factors[name]["B"], scale, transposed or name in embeddings
            )
            for name, scale in zip(ranks, scales, strict=True)
        }
        return dict(sorted({**{name: Delta(key) for name, key in whole.items()}, **deltas}.items()))

    def _rank(self, name: str, a: str, b: str) -> int:
        here, there = self.shard.tensors[a].shape, self.shard.tensors[b].shape
        if len(here) != 2 or len(there) != 2 or here[0] != there[1] or not here[0]:
            raise CheckpointError(
                f"{self.folder}: {name} has factors of shapes {here} and {there}; only matrices are supported"
            )
        if not self.config.get("rank_pattern") and here[0] != self.config["r"]:
            raise CheckpointError(
                f"{self.folder}: {name} has rank {here[0]}, adapter_config.json says {self.config['r']}; they do not"
                " belong together"
            )
        return here[0]

    def fit(self, tensors: Mapping[str, TensorInfo]) -> dict[str, Delta]:
        """Return the deltas by the base's names. Raises CheckpointError for one with no tensor of its shape there."""
        deltas: dict[str, Delta] = {}
        tails = {} if all(name in tensors for name in self._found) else _tails(tensors)
        for name, delta in self._found.items():
            own = name if name in tensors else _stored_name(tails, name)
            if own is None and self.keeps_ties and head_name([name]):
                continue  # the embedding's delta once more
            if own is None or own in deltas:
                raise CheckpointError(
                    f"{self.folder}: changes {name}, which the base does not store; merge it with PEFT, or name its"
                    " own base"
                )
            deltas[own] = delta
        turned = any(self._must_turn(delta, tensors[name].shape) for name, delta in deltas.items())
        for name, delta in deltas.items():
            wanted = tensors[name].shape
            if self._must_turn(delta, wanted) or (turned and split_layer(name) and len(set(wanted)) == 1):
                deltas[name] = delta = replace(delta, transposed=not delta.transposed)
            for shape in self._shapes(delta):
                if shape != wanted:
                    raise CheckpointError(
                        f"{self.folder}: the delta of {name} has shape {shape}, the base's tensor {wanted};"
                        " it belongs to another base"
                    )
        return deltas

    def _must_turn(self, delta: Delta, wanted: tuple[int, ...]) -> bool:
        """Whether only the transpose fits.

        PEFT notes the orientation once for all modules, the last one's; where some are Conv1D and others Linear, the
        shapes tell, and square ones in layers follow those that are not square.
        """
        product = self._shapes(delta)[-1]
        return delta.a is not None and product != wanted and product[::-1] == wanted

    def _shapes(self, delta: Delta) -> list[tuple[int, ...]]:
        """Return the shapes of what is put in place and of what is added."""
        stored = self.shard.tensors
        shapes = [] if delta.whole is None else [stored[delta.whole].shape]
        if delta.a is not None and delta.b is not None:
            product = (stored[delta.b].shape[0], stored[delta.a].shape[1])
            shapes.append(product[::-1] if delta.transposed else product)
        return shapes

    @torch.no_grad()
    def apply(
        self, delta: Delta, base: Callable[[slice | None], torch.Tensor], shape: tuple[int, ...], rows: slice | None
    ) -> torch.Tensor:
        """Return the adapted weight, or its rows, in float32. `base` returns rows of the tensor that it is added to."""
        read = base if delta.whole is None else partial(self.shard.read, delta.whole)
        if delta.a is None or delta.b is None:
            return read(rows).float()
        start, stop, _ = (slice(None) if rows is None else rows).indices(shape[0])
        first = start - start % _BLOCK
        last = max(first, min(-(-stop // _BLOCK) * _BLOCK, shape[0]))
        weight = read(slice(first, last))
        a, b = self.shard.read(delta.a), self.shard.read(delta.b)
        left, right = (a.T, b.T.float()) if delta.transposed else (b, a.float())
        left = left[first:last].float()
        adapted = torch.empty(weight.shape, dtype=torch.float32)
        for begin in range(0, last - first, _BLOCK):
            block = adapted[begin : begin + _BLOCK]
            block.copy_(weight[begin : begin + _BLOCK])
            block.addmm_(left[begin : begin + _BLOCK], right, alpha=delta.scale)
        return adapted[start - first : max(stop, start) - first]


def _tails(tensors: Iterable[str]) -> dict[str, str | None]:
    """Return the names by what they end with, in whole parts; None where several do."""
    tails: dict[str, str | None] = {}
    for name in tensors:
        parts = name.split(".")
        for dropped in range(len(parts) - 1):
            tail = ".".join(parts[dropped:])
            tails[tail] = None if tail in tails else name
    return tails


def _stored_name(tails: Mapping[str, str | None], name: str) -> str | None:
    """Return the base's own name of a tensor, which may stand under another prefix in files than in memory.

    As `h.0.attn.c_attn.weight` for `transformer.h.0.attn.c_attn.weight`; None where there is none, or more than one.
    """
    parts = name.split(".")
    found = (".".join(parts[dropped:]) for dropped in range(len(parts) - 1))
    return next((tails[tail] for tail in found if tail in tails), None)
