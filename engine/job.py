"""One output tensor: where its inputs come from, and how they are merged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.checkpoint import Checkpoint
from engine.methods.method import Method


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one tensor that go, weighted, into rows of an input whose vocabulary is rebuilt."""

    checkpoint: Checkpoint
    name: str
    target: torch.Tensor  # (r,) rows of the input
    source: torch.Tensor  # (r,) rows of the stored tensor
    weight: torch.Tensor | None  # (r,) or None for 1


@dataclass(frozen=True, eq=False)
class Input:
    """A stored tensor, or, where `rows` is not None, a new one of `shape` put together from rows."""

    checkpoint: Checkpoint
    name: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...] | None = None
    filled: int | None = None  # rows before the padding, each row of which is their mean; None without padding

    @property
    def mapped(self) -> bool:
        """Whether its bytes stand in a file just as kernels read them: bfloat16 or float32, changed by no adapter."""
        dtype = self.checkpoint.tensors[self.name].dtype
        return self.rows is None and dtype in (torch.bfloat16, torch.float32) and not self.checkpoint.adapts(self.name)

    @property
    def float_bytes(self) -> int:
        """Its size in float32."""
        return 4 * math.prod(self.shape)

    def read(self, dtype: torch.dtype, device: str) -> torch.Tensor:
        """Return the tensor in `dtype` on `device`; possibly a view of the file, never to be written to."""
        if self.rows is None:
            return self.checkpoint.read(self.name).to(device=device, dtype=dtype)
        whole = torch.zeros(self.shape, dtype=dtype)
        for rows in self.rows:
            values = rows.checkpoint.read(rows.name)[rows.source].to(dtype)
            if rows.weight is not None:
                values = values * rows.weight.to(dtype).view(-1, *[1] * (values.ndim - 1))
            whole.index_add_(0, rows.target, values)
        if self.filled is not None:
            whole[self.filled :] = whole[: self.filled].mean(dim=0)
        return whole.to(device)


@dataclass(frozen=True, eq=False)
class Job:
    """One output tensor. `method` None: the inputs hold no numbers to merge (integers) and must all agree."""

    name: str
    method: Method | None
    inputs: tuple[Input, ...]
    base: Input | None
    parameters: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype  # of the result
    work_dtype: torch.dtype
    seed: int  # the recipe's

    @property
    def members(self) -> tuple[Input, ...]:
        """All inputs, the base last."""
        return (*self.inputs, self.base) if self.base else self.inputs

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def key(self, position: int) -> int:
        """Return the 64-bit key of a source's draws (counted without the base): the same in any order of jobs."""
        text = f"{self.seed}\0{position}\0{self.name}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
