"""Which files hold a model's weights: safetensors where there are any, else PyTorch's .bin, single or in shards."""

from __future__ import annotations

from pathlib import Path

from engine.errors import CheckpointError
from engine.json_file import read_object
from engine.own_files import check_own
from engine.pickled import PickledShard
from engine.shard import Shard, check_name

AnyShard = Shard | PickledShard
_SINGLES = ("model.safetensors", "pytorch_model.bin")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def open_weights(reference: str, folder: Path) -> dict[str, AnyShard]:
    """Return the shard of each tensor of a model. Raises CheckpointError naming the model or the file."""
    for single in _SINGLES:
        if (folder / single).is_file():
            check_own(folder, [folder / single])
            shard = _open(folder / single)
            return dict.fromkeys(shard.tensors, shard)
        index = folder / f"{single}.index.json"
        if index.is_file():
            return _open_index(reference, index)
    raise CheckpointError(
        f"{reference}: has no {_SINGLES[0]}, {_SINGLES[1]} or index of shards; the download may be incomplete"
    )


def open_adapter_weights(folder: Path) -> AnyShard:
    """Return the weights of an adapter. Raises CheckpointError."""
    for name in _ADAPTERS:
        if (folder / name).is_file():
            check_own(folder, [folder / name])
            return _open(folder / name)
    raise CheckpointError(f"{folder}: has no {_ADAPTERS[0]} or {_ADAPTERS[1]}; save the adapter again")


def _open(path: Path) -> AnyShard:
    return Shard(path) if path.suffix == ".safetensors" else PickledShard(path)


def _open_index(reference: str, index: Path) -> dict[str, AnyShard]:
    files = _read_index(reference, index)
    shards = {file: _open(index.parent / file) for file in sorted(set(files.values()))}
    for name, file in files.items():
        if name not in shards[file].tensors:
            raise CheckpointError(
                f"{reference}: {index.name} says {name} is in {file}, which does not hold it; download both again"
            )
    return {name: shards[file] for name, file in files.items()}


def _read_index(reference: str, path: Path) -> dict[str, str]:
    """Return tensor name -> file name. Only plain names are followed: an index must not lead out of its folder."""
    files = read_object(path, reference).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(
            f"{reference}: {path.name} has no weight_map of tensor names to file names; download it again"
        )
    for name in files:
        check_name(path, name)
    suffix = Path(path.name.removesuffix(".index.json")).suffix
    for file in sorted(set(files.values())):
        if (
            file.startswith("..")
            or any(letter in file for letter in "/\\:\0")
            or not (file.isprintable() and file.endswith(suffix))
        ):
            raise CheckpointError(
                f"{reference}: {path.name} names {file[:80]!r}, which is no {suffix} file of the model's own folder;"
                " take the model from a source that you trust"
            )
        if not (path.parent / file).is_file():
            raise CheckpointError(f"{reference}: {file}, named in {path.name}, is missing; download it again")
    check_own(path.parent, [path, *(path.parent / file for file in sorted(set(files.values())))])
    return files
