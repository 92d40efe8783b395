"""One safetensors file: its header, strictly checked, and memory-mapped reads.

Format: https://github.com/huggingface/safetensors#format. A header that was not checked turns a truncated download
into garbage weights or a crash of the process, so every rule of the format is enforced here.
"""

from __future__ import annotations

import gc
import json
import math
import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import CheckpointError

HEADER_LIMIT = 32_000_000
"""Bytes, room for 250,000 tensors. The format allows 100,000,000, which would take gigabytes to read."""
_NAME_LIMIT = 1000
_DIMENSIONS_LIMIT = 16

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """A stored tensor's shape, dtype and size in bytes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


@dataclass(frozen=True)
class _Place:
    info: TensorInfo
    begin: int  # from the start of the file


class Shard:
    """A safetensors file. The header is read at once, the data is mapped at the first read."""

    def __init__(self, path: Path) -> None:
        """Read and check the header. Raises CheckpointError naming the file."""
        self.path = path
        with _uncollected():
            self._places = _read_header(path)
        self.tensors = {name: place.info for name, place in self._places.items()}
        self._bytes: torch.Tensor | None = None

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Return a tensor, or its rows, that views the file; writing to it is a fault, so clone it first."""
        place = self._places[name]
        if self._bytes is None:
            self._bytes = _map(self.path)
        begin, end, shape = place.begin, place.begin + place.info.nbytes, place.info.shape
        if rows is not None:
            start, stop, _ = rows.indices(shape[0])
            count = max(stop - start, 0)
            row = place.info.nbytes // max(shape[0], 1)
            begin, end, shape = begin + start * row, begin + (start + count) * row, (count, *shape[1:])
        data = self._bytes[begin:end]
        if begin % place.info.dtype.itemsize:
            data = data.clone()  # a header of odd length: the view would not be aligned
        return data.view(place.info.dtype).reshape(shape)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would go through a header's hundred thousands of objects again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _map(path: Path) -> torch.Tensor:
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be mapped: {error}") from None
    with warnings.catch_warnings():  # torch warns that the map is read-only, which is what we want
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(mapped, dtype=torch.uint8)


def _read_header(path: Path) -> dict[str, _Place]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8:
                raise _malformed(path, f"{size} bytes are too few for a header")
            if length > HEADER_LIMIT:
                raise _malformed(path, f"its header claims {length} bytes, more than {HEADER_LIMIT}")
            if length > size - 8:
                raise _malformed(path, f"its header claims {length} bytes, the file has {size}")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _malformed(path, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _malformed(path, "its header is not a JSON object")
    start = 8 + length
    places = {name: _place(path, name, entry, start) for name, entry in header.items() if name != "__metadata__"}
    _check_layout(path, places, start, size)
    return places


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content


def _place(path: Path, name: str, entry: Any, start: int) -> _Place:
    check_name(path, name)
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _malformed(path, f"the entry of {name} is not {{dtype, shape, data_offsets}}")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(
            f"{path}: {name} has dtype {repr(entry['dtype'])[:80]}, which is not supported; convert the model"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _malformed(path, f"{name} has shape {repr(shape)[:80]} and offsets {repr(offsets)[:80]}")
    nbytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise _malformed(path, f"{name} needs {nbytes} bytes for its shape, its offsets span {offsets[1] - offsets[0]}")
    return _Place(TensorInfo(tuple(shape), dtype, nbytes), start + offsets[0])


def check_name(path: Path, name: str) -> None:
    """Raise CheckpointError for a tensor's name that no line of text can show."""
    if len(name) > _NAME_LIMIT or not name.isprintable():
        raise CheckpointError(
            f"{path}: {name[:80]!r} is no name of a tensor; take the model from a source that you trust"
        )


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _DIMENSIONS_LIMIT
        and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    )


def _check_layout(path: Path, places: dict[str, _Place], start: int, size: int) -> None:
    """Tensors fill the data without a gap or an overlap, and the file ends with the last one."""
    end = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].info.nbytes)):
        if place.begin != end:
            what = "overlaps the tensor before it" if place.begin < end else "leaves a gap before it"
            raise _malformed(path, f"{name} {what}")
        end += place.info.nbytes
    if end > size:
        raise _malformed(path, f"truncated: the header describes {end} bytes, the file has {size}")
    if end < size:
        raise _malformed(path, f"{size - end} bytes follow the last tensor")


def _malformed(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a whole safetensors file: {what}; download or write it again")
