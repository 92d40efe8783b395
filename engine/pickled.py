"""PyTorch's .bin files: tensors that view the mapped file, and nothing else of what a pickle can do.

`torch.load(weights_only=True)` runs no code. Before it sees a file, the pickle's operations are read, without doing
them, for what it does not guard against: sizes that the file cannot hold, and objects that are no tensors.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from engine.errors import CheckpointError
from engine.shard import DTYPE_NAMES, TensorInfo, check_name

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The first pickle of files older than PyTorch 1.6: the format's magic number."""
_LEGACY_PICKLES = 5  # magic number, version, system, objects, keys of the storages
_MOST_OPERATIONS = 4_000_000
"""About 100,000 tensors."""
_PICKLE_LIMIT = 64 << 20
_SMALLEST_BOUND = 1 << 20
"""Integers up to this one are no claim about sizes, however small the file."""
_GLOBALS = re.compile(
    r"^(collections OrderedDict|torch(\.storage)? \w*Storage|torch (float|bfloat|int|uint|bool)\w*|torch Size"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)|torch\.nn\.parameter Parameter)$"
)
_INTEGERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")


class PickledShard:
    """A .bin file with the interface of `engine.shard.Shard`; files older than PyTorch 1.6 are read as a whole."""

    def __init__(self, path: Path) -> None:
        """Read names, shapes and dtypes. Raises CheckpointError naming the file; no code of the file is run."""
        self.path = path
        self._tensors = _load(path)
        for name in self._tensors:
            check_name(path, name)
        self.tensors = {name: _info(path, name, tensor) for name, tensor in self._tensors.items()}

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Return a contiguous tensor, or its rows, a view of the file where it can be; not to be written to."""
        tensor = self._tensors[name]
        return (tensor if rows is None else tensor[rows]).contiguous()

    def aliases(self) -> dict[str, str]:
        """Return the matrices that are another one of the file, by name of that one, which stands first (tied)."""
        first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
        found: dict[str, str] = {}
        for name, tensor in self._tensors.items():
            if tensor.ndim > 1 and tensor.numel():
                own = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
                if own != name:
                    found[name] = own
        return found


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LEGACY))
            file.seek(0)
            if start.startswith(_ZIP):
                _check_zip(path, file, size)
            elif start == _LEGACY:
                _check_legacy(path, file, size)
            else:
                raise _malformed(path, "it starts like no such file")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; see its permissions") from None
    try:
        with warnings.catch_warnings():  # of deprecated storage classes, which old files name
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(_ZIP))
    except Exception as error:  # a malformed file raises whatever torch's reader trips over
        raise _malformed(path, " ".join(str(error).split())[:200] or type(error).__name__) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not tensors by name; save the state_dict alone")
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, torch.Tensor)}


def _info(path: Path, name: str, tensor: torch.Tensor) -> TensorInfo:
    if tensor.layout != torch.strided or tensor.dtype not in DTYPE_NAMES or tensor.device.type != "cpu":
        raise CheckpointError(
            f"{path}: {name} is stored as {tensor.dtype}, {tensor.layout}, which is not supported; convert the model"
        )
    nbytes = tensor.numel() * tensor.dtype.itemsize
    if nbytes > max(path.stat().st_size, _SMALLEST_BOUND):
        raise _malformed(path, f"{name} has {tensor.numel()} elements, more than the file holds")
    return TensorInfo(tuple(tensor.shape), tensor.dtype, nbytes)


def _check_zip(path: Path, file: IO[bytes], size: int) -> None:
    """Look at the pickle of a zip archive. Raises CheckpointError for what torch.save would not have written."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            pickles = [entry for entry in entries if entry.filename.split("/", 1)[-1] == "data.pkl"]
            if len(pickles) != 1 or len(set(names)) != len(names):
                raise _malformed(path, "it does not hold one data.pkl")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _malformed(path, "it is compressed")
            if pickles[0].file_size > min(size, _PICKLE_LIMIT):
                raise _malformed(path, f"its index of tensors claims {pickles[0].file_size} bytes")
            stream = io.BytesIO(archive.read(pickles[0]))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise _malformed(path, " ".join(str(error).split())[:200]) from None
    _check_pickle(path, stream, size, 0)


def _check_legacy(path: Path, file: IO[bytes], size: int) -> None:
    count = 0
    for number in range(_LEGACY_PICKLES):
        # The first three hold a magic number, a version and the sizes of C's types.
        count = _check_pickle(path, file, size if number > 2 else 1 << 80, count)


def _check_pickle(path: Path, stream: IO[bytes], bound: int, count: int) -> int:
    """Read a pickle's operations up to its end without doing them; return their number added to `count`."""
    bound = max(bound, _SMALLEST_BOUND)
    try:
        for operation, argument, _ in pickletools.genops(stream):
            count += 1
            if count > _MOST_OPERATIONS:
                raise _malformed(path, f"its index of tensors has more than {_MOST_OPERATIONS} steps")
            if operation.name == "GLOBAL" and not _GLOBALS.match(str(argument)):
                raise CheckpointError(
                    f"{path}: names {str(argument).replace(' ', '.')[:80]}, which no weights need and was not run; take"
                    " the model from a source that you trust, as safetensors"
                )
            if operation.name in _INTEGERS and not -bound <= _integer(argument) <= bound:
                raise _malformed(path, f"it claims a size of {argument}")
    except CheckpointError:
        raise
    except Exception as error:  # pickletools raises whatever it trips over
        raise _malformed(path, " ".join(str(error).split())[:200] or type(error).__name__) from None
    return count


def _integer(argument: Any) -> int:
    return argument if isinstance(argument, int) else 0


def _malformed(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a whole file of PyTorch weights: {what}; download or write it again")
