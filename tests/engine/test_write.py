from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import engine.shard_file
from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError, EngineError, OutputError
from engine.merge import merge
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.room import in_units, peak_memory
from engine.write import merge_to_folder, write_checkpoint

Make = Callable[..., str]


@pytest.fixture
def recipe(make: Make) -> Recipe:
    a, b, base = make("a"), make("b", seed=1), make("base", seed=2)
    entries = [{"model": m, "parameters": {"weight": 0.4, "density": 0.6}} for m in (a, b)]
    return Recipe.model_validate(
        {"merge_method": "dare_ties", "models": entries, "base_model": base, "out_dtype": "bfloat16", "seed": 3}
    )


def planned(recipe: Recipe) -> Plan:
    return plan(recipe, {name: open_checkpoint(name) for name in recipe.references})


@pytest.mark.parametrize("shard_bytes", [5e9, 300, 1])
def test_written_equals_merged_bit_for_bit(recipe: Recipe, tmp_path: Path, shard_bytes: float) -> None:
    out = tmp_path / "out"
    calls: list[tuple[int, int]] = []
    write_checkpoint(planned(recipe), out, shard_bytes=shard_bytes, progress=lambda done, of: calls.append((done, of)))
    written = open_checkpoint(str(out))
    in_memory = dict(merge(planned(recipe)))
    assert set(written.tensors) == set(in_memory)
    for name, tensor in in_memory.items():
        assert written.tensors[name].dtype == tensor.dtype
        assert torch.equal(written.read(name).view(torch.int16), tensor.view(torch.int16)), name
    sizes = [tensor.nbytes for tensor in in_memory.values()]
    assert calls == [(sum(sizes[:i]), sum(sizes)) for i in range(len(sizes) + 1)]
    assert (out / "model.safetensors").exists() == (shard_bytes == 5e9)


def test_files_beside_the_weights(recipe: Recipe, tmp_path: Path) -> None:
    merge_to_folder(recipe, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json", "README.md", "merge_recipe.yaml"}
    assert Recipe.from_yaml((tmp_path / "out" / "merge_recipe.yaml").read_text()) == recipe
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "dare_ties" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("own", [True, False])
def test_code_comes_with_a_config_that_names_it(make: Make, tmp_path: Path, own: bool) -> None:
    a = Path(make("a", **({"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}} if own else {})))
    for name in ("modeling_own.py", "parts_own.py"):
        (a / name).write_text(f"raise RuntimeError('{name} was run')")
    entries = [{"model": str(a), "parameters": {"weight": 1}}, {"model": make("b"), "parameters": {"weight": 1}}]
    merge_to_folder(Recipe.model_validate({"merge_method": "linear", "models": entries}), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.py")) == (
        ["modeling_own.py", "parts_own.py"] if own else []
    )


def test_an_older_dtype_key_is_kept(make: Make, tmp_path: Path) -> None:
    source = Path(make("old"))
    config = json.loads((source / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (source / "config.json").write_text(json.dumps(config))
    got = planned(Recipe(merge_method="passthrough", models=({"model": str(source)},), dtype="float16"))  # type: ignore[arg-type]
    assert got.config["torch_dtype"] == "float16"
    assert "dtype" not in got.config


def test_replaces_only_what_we_wrote(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    merge_to_folder(recipe, out)
    (out / "stale.safetensors").write_text("x")
    with pytest.raises(OutputError, match=r"holds stale\.safetensors, which no merge writes"):
        merge_to_folder(recipe, out)
    (out / "stale.safetensors").rename(out / "model-00001-of-00002.safetensors")
    merge_to_folder(recipe, out)
    assert not (out / "model-00001-of-00002.safetensors").exists()
    (out / "sub").mkdir()
    with pytest.raises(OutputError, match="holds sub, which is no file"):
        merge_to_folder(recipe, out)
    (out / "sub").rmdir()
    (out / "README.md").unlink()
    (out / "README.md").symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(OutputError, match=r"holds README\.md, which is no file"):
        merge_to_folder(recipe, out)
    (out / "README.md").unlink()
    for name, reason in {
        "config.json": r"holds no config\.json",
        "model.safetensors": "holds no weights",
        "merge_recipe.yaml": r"holds no merge_recipe\.yaml",
    }.items():
        (out / name).rename(tmp_path / name)
        with pytest.raises(OutputError, match=f"is not empty and {reason}"):
            merge_to_folder(recipe, out)
        assert len(list(out.iterdir())) > 2
        (tmp_path / name).rename(out / name)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        merge_to_folder(recipe, tmp_path / "file")
    with pytest.raises(OutputError, match=r"cannot be made, as .*file is a file"):
        merge_to_folder(recipe, tmp_path / "file" / "deep" / "out")


def test_a_path_is_tested_where_it_leads(recipe: Recipe, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    with pytest.raises(OutputError, match="is not empty"):
        merge_to_folder(recipe, tmp_path / "nothere" / ".." / "precious")
    assert [path.name for path in precious.iterdir()] == ["file"]
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        merge_to_folder(recipe, tmp_path / ("x" * 300))


def test_what_came_during_the_merge_is_not_replaced(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def come(done: int, of: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "precious").write_text("x")

    with pytest.raises(OutputError, match="is not empty"):
        merge_to_folder(recipe, out, progress=come)
    assert [path.name for path in out.iterdir()] == ["precious"]


@pytest.mark.parametrize("ending", ["partial", "replaced"])
def test_a_link_beside_the_target_is_not_followed(recipe: Recipe, tmp_path: Path, ending: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (tmp_path / f".out.{ending}").symlink_to(precious)
    merge_to_folder(recipe, tmp_path / "out")
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert not (tmp_path / "out").is_symlink()
    assert list(tmp_path.glob(".out*")) == []


def test_a_file_of_the_donor_that_cannot_be_read_is_named(recipe: Recipe, tmp_path: Path) -> None:
    made = planned(recipe)
    tokenizer = made.donor.folder / "tokenizer.json"
    tokenizer.unlink()
    tokenizer.symlink_to("gone")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be read: No such file"):
        write_checkpoint(made, tmp_path / "out")
    assert list(tmp_path.glob(".out*")) == []


def test_all_files_are_on_the_disk_before_they_get_their_place(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    merge_to_folder(recipe, tmp_path / "out", shard_bytes=300)
    files = [tmp_path / "out", *(tmp_path / "out").iterdir()]
    assert [path.name for path in files if path.stat().st_ino not in synced] == []


def test_an_interrupted_merge_leaves_the_old_one(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "out"
    merge_to_folder(recipe, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def stop(done: int, of: int) -> None:
        if done > of / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_to_folder(recipe, out, progress=stop)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failing_rename_puts_the_old_one_back(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "folder" / "out"
    merge_to_folder(recipe, out)
    rename = Path.rename

    def refuse(self: Path, target: Any) -> Path:
        if self.name == ".out.partial":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        merge_to_folder(recipe, out)
    assert sorted(path.name for path in out.parent.iterdir()) == [".out.partial", "out"]
    assert (out / "model.safetensors").exists()
    monkeypatch.setattr(Path, "rename", rename)
    merge_to_folder(recipe, out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_full_disks(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(engine.shard_file.os, "fsync", full)
        with pytest.raises(OutputError, match="the disk is full"):
            merge_to_folder(recipe, tmp_path / "x" / "out")
    assert list((tmp_path / "x").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OutputError, match="are needed"):
        merge_to_folder(recipe, tmp_path / "x" / "out")


def test_errors_before_the_first_byte(recipe: Recipe, tmp_path: Path) -> None:
    wrong = recipe.model_copy(update={"merge_method": "nearswap"})
    with pytest.raises(EngineError):
        merge_to_folder(wrong, tmp_path / "y" / "out")
    assert not (tmp_path / "y").exists()


def test_too_little_memory_is_told_before_the_first_byte(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"memory of cpu: the largest tensor takes .* to merge, 5 bytes are free"):
        merge_to_folder(recipe, tmp_path / "x" / "out", memory=5)
    assert not (tmp_path / "x").exists()
    merge_to_folder(recipe, tmp_path / "x" / "out", memory=peak_memory(planned(recipe)))


def test_tokenizer_and_card_can_be_left_away(recipe: Recipe, tmp_path: Path) -> None:
    (Path(recipe.references[0]) / "generation_config.json").write_text("{}")
    merge_to_folder(recipe, tmp_path / "out", copy_tokenizer=False, model_card=False)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json", "generation_config.json", "merge_recipe.yaml"}


def test_architectures_can_be_mixed_on_demand(make: Make, tmp_path: Path) -> None:
    entries = [{"model": make("a"), "parameters": {"weight": 1}}]
    entries += [{"model": make("b", model_type="mistral"), "parameters": {"weight": 1}}]
    mixed = Recipe.model_validate({"merge_method": "linear", "models": entries})
    with pytest.raises(EngineError, match="model_type is mistral"):
        merge_to_folder(mixed, tmp_path / "out")
    merge_to_folder(mixed, tmp_path / "out", any_architecture=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"


def test_sizes_are_told_in_the_units_of_disks() -> None:
    sizes = (0, 999, 1000, 999_499, 999_999, 5e9, 1.2e15)
    assert [in_units(size) for size in sizes] == ["0 bytes", "999 bytes", "1 kB", "999 kB", "1 MB", "5 GB", "1,200 TB"]
