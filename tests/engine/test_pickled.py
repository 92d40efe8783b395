"""PyTorch's .bin files: read as tensors, whatever they hold; nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError
from engine.pickled import PickledShard

Make = Callable[..., str]


def as_bin(folder: str, shards: int = 1, legacy: bool = False, extra: dict[str, Any] | None = None) -> str:
    """Turn a model's safetensors file into .bin files."""
    path = Path(folder)
    tensors = load_file(path / "model.safetensors") | (extra or {})
    (path / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        return folder
    places = {name: f"pytorch_model-{1 + i % shards}.bin" for i, name in enumerate(tensors)}
    for file in sorted(set(places.values())):
        torch.save({name: tensor for name, tensor in tensors.items() if places[name] == file}, path / file)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize(("shards", "legacy"), [(1, False), (3, False), (1, True)])
def test_equals_the_same_model_in_safetensors(make: Make, dtype: torch.dtype, shards: int, legacy: bool) -> None:
    if legacy and dtype.itemsize == 1:
        pytest.skip("torch itself cannot read float8 from its old format")
    whole = open_checkpoint(make("a", dtype=dtype))
    pickled = open_checkpoint(as_bin(make("b", dtype=dtype), shards, legacy))
    assert pickled.tensors == whole.tensors
    for name in whole.tensors:
        assert torch.equal(pickled.read(name).view(torch.uint8), whole.read(name).view(torch.uint8))
        assert torch.equal(pickled.read(name, slice(1, 3)).view(torch.uint8), whole.read(name)[1:3].view(torch.uint8))


def test_safetensors_win(make: Make) -> None:
    folder = Path(make("a"))
    torch.save({"other": torch.ones(1)}, folder / "pytorch_model.bin")
    assert "other" not in open_checkpoint(str(folder)).tensors


@pytest.mark.parametrize("legacy", [False, True])
def test_odd_entries(tmp_path: Path, legacy: bool) -> None:
    whole = torch.arange(40.0).reshape(8, 5)
    content = {
        "tied": whole, "again": whole, "turned": whole.T, "part": whole[2:4, 1:3], "steps": 7, "name": "x", "list": [1],
        "none": None, "parameter": torch.nn.Parameter(whole + 1), "empty": torch.zeros(0, 3), "scalar": torch.tensor(3),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.bin", _use_new_zipfile_serialization=not legacy)
    shard = PickledShard(tmp_path / "x.bin")
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    assert {name: info.shape for name, info in shard.tensors.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    for name, tensor in tensors.items():
        assert torch.equal(shard.read(name), tensor.detach())
        assert shard.read(name).is_contiguous()
        assert not shard.read(name).requires_grad
    assert shard.aliases() == {"again": "tied"}


@pytest.mark.parametrize(("config", "kept"), [({"tied": True}, False), ({}, True)])
def test_a_tied_head_counts_once(make: Make, config: dict[str, Any], kept: bool) -> None:
    folder = Path(make("a", **config))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert ("lm_head.weight" in open_checkpoint(str(folder)).tensors) is kept


class Code:
    """Unpickling this creates a file."""

    def __init__(self, path: Path, call: Any = os.mkdir) -> None:
        self.arguments = (call, (str(path),))

    def __reduce__(self) -> Any:
        return self.arguments


def pickled(data: bytes, compression: int = zipfile.ZIP_STORED, name: str = "archive/data.pkl") -> bytes:
    """A zip file as torch.save writes it, around a pickle."""
    import io

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(name, data)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", b"1234")
        archive.writestr("archive/version", b"3\n")
    return stream.getvalue()


def tensor_pickle(elements: int, shape: list[int], strides: list[int]) -> bytes:
    """The pickle of {"a": tensor} with the sizes claimed."""

    def integer(value: int) -> bytes:
        packed = value.to_bytes(9, "little")
        return b"\x8a\x09" + packed

    def tuple_of(values: list[int]) -> bytes:
        return b"(" + b"".join(map(integer, values)) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + integer(elements) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(0) + tuple_of(shape) + tuple_of(strides)
    return b"\x80\x02}" + text("a") + tensor + b"\x89ccollections\nOrderedDict\n)RtRs."


def test_the_handmade_pickle_is_one(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickled(tensor_pickle(1, [1], [1])))
    assert torch.equal(PickledShard(tmp_path / "x.bin").read("a").view(torch.uint8), torch.tensor(list(b"1234")).byte())


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "code": (lambda target: pickled(pickle.dumps({"a": Code(target)}, 2)), "mkdir.*was not run"),
    "code, protocol 4": (lambda target: pickled(pickle.dumps({"a": Code(target)}, 4)), "not a whole file"),
    "code, no zip": (lambda target: pickle.dumps({"a": Code(target)}, 2), "not a whole file"),
    "code, old format": (
        lambda target: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps({"a": Code(target)}, 2),
        "was not run",
    ),
    "a large bytearray": (
        lambda target: pickled(pickle.dumps({"a": Code(target, bytearray)}, 2)),
        "bytearray.*was not run",
    ),
    "absurd storage": (lambda _: pickled(tensor_pickle(1 << 62, [1], [1])), "claims a size"),
    "absurd shape": (lambda _: pickled(tensor_pickle(1, [1 << 62, 2], [1, 1])), "claims a size"),
    "larger than its storage": (lambda _: pickled(tensor_pickle(1, [1 << 19], [1])), "not a whole file"),
    "product overflows": (lambda _: pickled(tensor_pickle(1, [1 << 19] * 4, [0] * 4)), "not a whole file"),
    "repeated by strides": (
        lambda _: pickled(tensor_pickle(1, [1 << 19, 1 << 19], [0, 0])),
        "more than the file holds",
    ),
    "bomb": (lambda _: pickled(b"\x80\x02" + b"]" * (1 << 26), zipfile.ZIP_DEFLATED), "compressed"),
    "many steps": (lambda _: pickled(b"\x80\x02" + b"]" * (1 << 23) + b"."), "more than 4000000 steps"),
    "deep": (lambda _: pickled(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), "holds list"),
    "no pickle": (lambda _: pickled(b"", name="archive/other"), "does not hold one data.pkl"),
    "truncated pickle": (lambda _: pickled(tensor_pickle(1, [1], [1])[:-5]), "not a whole file"),
    "truncated zip": (lambda _: pickled(tensor_pickle(1, [1], [1]))[:-30], "not a whole file"),
    "a list": (lambda _: pickled(b"\x80\x02]."), "holds list"),
    "empty": (lambda _: b"", "starts like no such file"),
    "text": (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "starts like no such file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_not_run(kind: str, make: Make, tmp_path: Path) -> None:
    build, message = HOSTILE[kind]
    folder = Path(make("a"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(build(tmp_path / "created"))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(folder))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20
    assert not (tmp_path / "created").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=5000)
@given(st.data(), st.booleans())
def test_damaged_files_never_crash(tmp_path: Path, data: st.DataObject, legacy: bool) -> None:
    path = tmp_path / "damaged.bin"
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(4)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :])
    try:
        shard = PickledShard(path)
        for name in shard.tensors:
            shard.read(name).sum()
    except CheckpointError:
        pass


def test_adapters_may_be_pickled_too(make: Make, tmp_path: Path) -> None:
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    factors = {f"{stem}.lora_A.weight": torch.randn(2, 8), f"{stem}.lora_B.weight": torch.randn(8, 2)}
    base = make("base")
    for name in ("safe", "pickled"):
        (tmp_path / name).mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    save_file(factors, tmp_path / "safe" / "adapter_model.safetensors")
    torch.save(factors, tmp_path / "pickled" / "adapter_model.bin")
    one, other = (open_checkpoint(f"{base}+{tmp_path / name}") for name in ("safe", "pickled"))
    assert all(torch.equal(one.read(name), other.read(name)) for name in one.tensors)
    assert any(not torch.equal(one.read(name), open_checkpoint(base).read(name)) for name in one.tensors)
