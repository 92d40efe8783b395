"""Lazy checkpoints: an index over the headers of safetensors shards, and memory-mapped reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.adapter import Adapter, Delta
from engine.companions import code, companions
from engine.digest import digest_of
from engine.errors import CheckpointError
from engine.model_config import read_config
from engine.own_files import check_own
from engine.reference import parse_reference, resolve
from engine.ties import untied_head, without_tie, without_twins
from engine.weights import open_weights

_BESIDE_LIMIT = 256 << 20
"""Bytes of a file beside the weights; the largest tokenizers have about 40 MB."""


class Checkpoint:
    """A model's weights, read when asked for; with an adapter, the base's weights plus the adapter's deltas."""

    def __init__(self, reference: str, folder: Path, adapter: Adapter | None = None) -> None:
        """Read the configuration and the headers. Raises CheckpointError naming the model."""
        self.reference = reference
        self.folder = folder
        check_own(folder, [folder / "config.json", *companions(folder), *code(folder)], limit=_BESIDE_LIMIT)
        self.config: dict[str, Any] = read_config(reference, folder)
        self._shards = without_twins(self.config, open_weights(reference, folder))
        self.tensors = {name: s.tensors[name] for name, s in sorted(self._shards.items())}
        if not self.tensors:
            raise CheckpointError(
                f"{reference}: its file of weights holds no tensors; download or save the model again"
            )
        self.adapter = adapter
        self._aliases: Mapping[str, str] = {}
        self._deltas: Mapping[str, Delta] = {}
        if adapter is not None:
            self._aliases = untied_head(self.config, self.tensors, adapter.names, adapter.keeps_ties)
            if self._aliases:
                self.config = without_tie(self.config)
                self.tensors = self.tensors | {name: self.tensors[own] for name, own in self._aliases.items()}
            self._deltas = adapter.fit(self.tensors)
        self._fingerprint: str | None = None

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Return a tensor: a read-only view of the file in its stored dtype, or float32 where an adapter changes it.

        With `rows` (a slice without a step), only those along the first dimension, with the same bits. Raises
        CheckpointError for a name that is not in `tensors`.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.reference}: has no tensor {name}; name one that the model stores")
        own = self._aliases.get(name, name)
        shard = self._shards[own]
        if self.adapter is not None and name in self._deltas:
            return self.adapter.apply(self._deltas[name], partial(shard.read, own), self.tensors[name].shape, rows)
        return shard.read(own, rows)

    def adapts(self, name: str) -> bool:
        """Whether an adapter changes the tensor, which is then read as float32."""
        return name in self._deltas

    def fingerprint(self) -> str:
        """Return the sha256 over all that the model is: weights, adapter, config.json, tokenizer, its own code.

        Weights count by content, the small files by name and content. Computed once, in threads.
        """
        if self._fingerprint is None:
            files = sorted({shard.path for shard in self._shards.values()})
            if self.adapter is not None:
                files += [self.adapter.shard.path, self.adapter.folder / "adapter_config.json"]
            with ThreadPoolExecutor(max_workers=4) as pool:
                digests = list(pool.map(digest_of, files))
            beside = [self.folder / "config.json", *companions(self.folder), *code(self.folder)]
            digests += [f"{path.name}:{digest_of(path)}" for path in beside]
            self._fingerprint = hashlib.sha256("".join(digests).encode()).hexdigest()
        return self._fingerprint


def open_checkpoint(reference: str, *, token: str | None = None) -> Checkpoint:
    """Open a model by its name (see `engine.reference`). Raises CheckpointError naming it."""
    parsed = parse_reference(reference)
    adapter = Adapter(resolve(parsed.adapter, token=token)) if parsed.adapter else None
    return Checkpoint(reference, resolve(parsed.model, token=token), adapter)
