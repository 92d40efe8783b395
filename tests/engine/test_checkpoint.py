from __future__ import annotations

import json
import struct
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
from engine.reference import parse_reference
from engine.shard import Shard

Make = Callable[..., str]


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


MALFORMED = {
    "empty": b"",
    "short": b"\0\0\0",
    "header beyond the file": packed({}, length=1000),
    "header too large": packed({}, length=1 << 40),
    "not JSON": packed(b"{..."),
    "not UTF-8": packed(b"\xff\xfe{}"),
    "not an object": packed([]),
    "deep": packed(b"[" * 100_000),
    "key twice": packed(b'{"a": 1, "a": 2}'),
    "no fields": packed({"a": {"dtype": "F32"}}),
    "unknown dtype": packed({"a": entry(0, 4, [1], "F13")}, b"1234"),
    "dtype no text": packed({"a": entry(0, 4, [1]) | {"dtype": []}}, b"1234"),
    "negative shape": packed({"a": entry(0, 4, [-1, -1])}, b"1234"),
    "fractional shape": packed({"a": entry(0, 4, [1]) | {"shape": [1.0]}}, b"1234"),
    "offsets for another shape": packed({"a": entry(0, 8, [1])}, b"12345678"),
    "offsets reversed": packed({"a": entry(4, 0, [1])}, b"1234"),
    "truncated": packed({"a": entry(0, 8, [2])}, b"1234"),
    "trailing bytes": packed({"a": entry(0, 4, [1])}, b"12345"),
    "overlapping": packed({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"123456789012"),
    "gap": packed({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"123456789012"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MALFORMED[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        Shard(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    whole = packed({"a": entry(0, 8, [2]), "b": entry(8, 12, [1])}, b"123456789012")
    at = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path / "damaged"
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :])
    try:
        shard = Shard(path)
        for name in shard.tensors:
            shard.read(name)
    except CheckpointError:
        pass


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4))
def test_reads_what_safetensors_wrote(tmp_path: Path, shapes: list[list[int]]) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.int64, torch.float16)
    tensors = {f"t{i}": torch.ones(shape).mul(i + 1).to(dtypes[i % 4]) for i, shape in enumerate(shapes)}
    save_file(tensors, tmp_path / "x.safetensors")
    shard = Shard(tmp_path / "x.safetensors")
    assert all(torch.equal(shard.read(name), tensor) for name, tensor in tensors.items())
    assert {n: (i.shape, i.dtype) for n, i in shard.tensors.items()} == {
        n: (tuple(t.shape), t.dtype) for n, t in tensors.items()
    }


def test_unaligned_data_is_read(tmp_path: Path) -> None:
    values = [[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]]
    header = json.dumps({"a": entry(0, 24, [3, 2])}).encode()
    header += b" " * (1 - len(header) % 2)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(packed(header, struct.pack("<6f", *(x for row in values for x in row))))
    assert Shard(path).read("a").tolist() == values
    assert Shard(path).read("a", slice(1, 3)).tolist() == values[1:]


def test_rows_are_a_slice_of_the_whole(tmp_path: Path) -> None:
    tensors = {"matrix": torch.arange(21.0).view(7, 3), "vector": torch.arange(7), "empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    shard = Shard(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        for rows in (slice(None), slice(2, 5), slice(5, 99), slice(9, 12), slice(3, 3), slice(4, 2), slice(-3, None)):
            assert torch.equal(shard.read(name, rows), tensor[rows])


def sharded(folder: Path, weight_map: Any = None) -> str:
    """Split a model into two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in sorted(set(places.values())):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == file}, folder / file)
    index = {"weight_map": places if weight_map is None else weight_map(places)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(folder)


def test_shards_are_one_checkpoint(make: Make) -> None:
    whole, parts = open_checkpoint(make("a")), open_checkpoint(sharded(Path(make("b"))))
    assert list(whole.tensors) == list(parts.tensors)
    assert all(torch.equal(whole.read(name), parts.read(name)) for name in whole.tensors)
    assert whole.fingerprint() == open_checkpoint(whole.reference).fingerprint()
    assert whole.fingerprint() != open_checkpoint(make("c", seed=1)).fingerprint()


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt",
        "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json",
    ],
)  # fmt: skip
def test_the_fingerprint_covers_what_stands_beside_the_weights(make: Make, name: str) -> None:
    folder = Path(make("a", rope_theta=10000.0))
    before = open_checkpoint(str(folder)).fingerprint()
    (folder / "README.md").write_text("no part of the model")
    assert open_checkpoint(str(folder)).fingerprint() == before
    config = json.loads((folder / "config.json").read_text()) | {"rope_theta": 500000.0}
    (folder / name).write_text(json.dumps(config))
    assert open_checkpoint(str(folder)).fingerprint() != before


def test_the_fingerprint_covers_code_only_where_the_config_names_it(make: Make) -> None:
    for name, config, same in (("plain", {}, True), ("own", {"auto_map": {"AutoConfig": "mine.Config"}}, False)):
        folder = Path(make(name, **config))
        before = open_checkpoint(str(folder)).fingerprint()
        (folder / "mine.py").write_text("x = 1")
        assert (open_checkpoint(str(folder)).fingerprint() == before) is same


@pytest.mark.parametrize("file", ["../model-1.safetensors", "/etc/passwd", "..", "a/b", "a\\b", "", "C:x"])
def test_an_index_does_not_lead_out_of_the_folder(make: Make, file: str) -> None:
    with pytest.raises(CheckpointError, match="own folder"):
        open_checkpoint(sharded(Path(make("a")), lambda places: places | {"model.norm.weight": file}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places | {"model.norm.weight": "gone.safetensors"}, r"gone\.safetensors.* is missing"),
        (lambda places: places | {"extra.weight": "model-1.safetensors"}, r"extra\.weight is in model-1"),
        (lambda places: {}, "no weight_map"),
        (lambda places: {"a": 1}, "no weight_map"),
    ],
)
def test_index_and_files_must_agree(make: Make, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(sharded(Path(make("a")), change))


def test_what_is_no_model_is_said_by_name(make: Make, tmp_path: Path) -> None:
    folder = Path(make("a"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a whole file of PyTorch weights"):
        open_checkpoint(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="download may be incomplete"):
        open_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="quantised"):
        open_checkpoint(make("q", quantization_config={"quant_method": "gptq"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(str(tmp_path / "empty"))


def test_hub_errors_name_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("offline mode is enabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"org/model@v1: no such folder.*offline mode"):
        open_checkpoint("org/model@v1")


@pytest.mark.parametrize("name", ["~nobody99/x", "x" * 300, f"org/a+{'x' * 300}", f"~nobody99@{'x' * 300}"])
def test_names_that_no_folder_can_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="no such folder") as caught:
        open_checkpoint(name)
    assert "\n" not in str(caught.value)


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    full = parse_reference("org/a@v1+org/l@v2")
    assert (full.model.name, full.model.revision) == ("org/a", "v1")
    assert full.adapter is not None
    assert (full.adapter.name, full.adapter.revision) == ("org/l", "v2")
    for folder in ("x@y", "p+q", "l"):
        (tmp_path / folder).mkdir()
    assert parse_reference("x@y").model.revision is None
    assert parse_reference("p+q").adapter is None
    both = parse_reference("p+q+l")
    assert (both.model.name, both.adapter and both.adapter.name) == ("p+q", "l")
    for wrong in ("a@b@c", "a+b+c", "a+", "+a", "a@"):
        with pytest.raises(CheckpointError):
            parse_reference(wrong)
