"""Merges that were stopped in the middle: by a kill, by a full disk, by Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock

import engine.shard_file
from engine.checkpoint import open_checkpoint
from engine.errors import EngineError, OutputError
from engine.plan import plan
from engine.recipe import Recipe
from engine.shard import Shard
from engine.shard_layout import index, layout
from engine.unfinished import NOTE
from engine.write import merge_to_folder

Make = Callable[..., str]
ROOT = Path(__file__).parents[2]
SHARD = 300  # bytes: several shards, with one tensor and with more
STALLS = """
import json, sys, time
from pathlib import Path
from engine.recipe import Recipe
from engine.write import merge_to_folder
recipe, out, at = sys.argv[1:]
def wait(done, of):
    if done > float(at) * of:
        print("half", flush=True)
        time.sleep(600)
merge_to_folder(Recipe.from_yaml(Path(recipe).read_text()), Path(out), shard_bytes=300, progress=wait)
"""


@pytest.fixture
def recipe(make: Make) -> Recipe:
    a, b, base = make("a"), make("b", seed=1), make("base", seed=2)
    entries = [{"model": m, "parameters": {"weight": 0.4, "density": 0.6}} for m in (a, b)]
    return Recipe.model_validate({"merge_method": "dare_ties", "models": entries, "base_model": base, "seed": 3})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def usage(free: int) -> Callable[[Any], Any]:
    return lambda _: SimpleNamespace(free=free)


def start(recipe: Recipe, out: Path, at: float = 0.6) -> subprocess.Popen[str]:
    """A process that merges until it is `at` of the way, and then stands still."""
    path = out.with_suffix(".yaml")
    path.write_text(recipe.to_yaml())
    process = subprocess.Popen(
        [sys.executable, "-c", STALLS, str(path), str(out), str(at)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def whole(partial: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in partial.glob("*.safetensors")}


def test_a_killed_merge_goes_on_at_the_first_missing_shard(recipe: Recipe, tmp_path: Path) -> None:
    quiet, out, partial = tmp_path / "quiet", tmp_path / "out", tmp_path / ".out.partial"
    merge_to_folder(recipe, quiet, shard_bytes=SHARD)
    kill(start(recipe, out))
    before = whole(partial)
    assert 1 < len(before) < len(list(quiet.glob("*.safetensors")))
    assert len(list(partial.glob("*.tmp"))) == 1
    assert not out.exists()
    calls: list[tuple[int, int]] = []
    merge_to_folder(recipe, out, shard_bytes=SHARD, progress=lambda done, of: calls.append((done, of)))
    assert contents(out) == contents(quiet)
    assert before.items() <= whole(out).items()
    assert 0 < calls[0][0] < calls[-1][0] == calls[-1][1]
    assert not partial.exists()
    assert sorted(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("change", ["recipe", "seed", "shards", "source", "config", "note", "length"])
def test_what_no_longer_fits_is_made_anew(recipe: Recipe, tmp_path: Path, change: str) -> None:
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    kill(start(recipe, out))
    before = whole(partial)
    first = min(before)
    shard_bytes, source = SHARD, Path(recipe.references[1])
    match change:
        case "recipe":
            recipe = recipe.model_copy(update={"out_dtype": "bfloat16"})
        case "seed":
            recipe = recipe.model_copy(update={"seed": 4})
        case "shards":
            shard_bytes = 2 * SHARD
        case "source":
            weights = bytearray((source / "model.safetensors").read_bytes())
            weights[-2:] = b"\x00\x3f"
            (source / "model.safetensors").write_bytes(weights)
        case "config":
            path = source / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7}))
        case "note":
            (partial / NOTE).write_text("{")
        case "length":
            (partial / first).write_bytes(b"short")
    merge_to_folder(recipe, out, shard_bytes=shard_bytes)
    kept = before.items() & whole(out).items()
    assert kept == (before.items() - {(first, before[first])} if change == "length" else set())
    merge_to_folder(recipe, tmp_path / "again", shard_bytes=shard_bytes)
    assert contents(out) == contents(tmp_path / "again")


def test_two_processes_do_not_write_to_one_folder(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(recipe, out)
    try:
        with pytest.raises(OutputError, match="another process is writing to it"):
            merge_to_folder(recipe, out)
        merge_to_folder(recipe, tmp_path / "elsewhere")
    finally:
        kill(process)
    merge_to_folder(recipe, out)


def test_the_lock_is_free_after_an_error(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.room.shutil, "disk_usage", usage(1))
    with pytest.raises(OutputError, match="are needed"):
        merge_to_folder(recipe, tmp_path / "out")
    with FileLock(tmp_path / ".out.lock", timeout=0):
        pass


def test_ctrl_c_keeps_whole_shards_only(recipe: Recipe, tmp_path: Path) -> None:
    out, partial = tmp_path / "out", tmp_path / ".out.partial"

    def stop(done: int, of: int) -> None:
        if done > 0.6 * of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_to_folder(recipe, out, shard_bytes=SHARD, progress=stop)
    before = whole(partial)
    assert {path.name for path in partial.iterdir()} == {NOTE, *before}
    merge_to_folder(recipe, out, shard_bytes=SHARD)
    assert before.items() <= whole(out).items()


def test_a_disk_that_fills_up_keeps_whole_shards(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "out", os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(engine.shard_file, "os", SimpleNamespace(fsync=full, pwrite=os.pwrite))
        with pytest.raises(OutputError, match=r"the disk is full.*goes on"):
            merge_to_folder(recipe, out, shard_bytes=SHARD)
    before = whole(tmp_path / ".out.partial")
    assert len(before) == 2
    merge_to_folder(recipe, out, shard_bytes=SHARD)
    assert before.items() <= whole(out).items()


def test_kept_shards_need_no_room_again(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    kill(start(recipe, out))
    shards = layout(plan(recipe, {name: open_checkpoint(name) for name in recipe.references}).jobs, SHARD)
    missing = sum(shard.size for shard in shards if shard.file not in whole(tmp_path / ".out.partial"))
    monkeypatch.setattr(engine.room.shutil, "disk_usage", usage((64 << 20) + missing - 1))
    with pytest.raises(OutputError, match="are needed"):
        merge_to_folder(recipe, out, shard_bytes=SHARD)
    monkeypatch.setattr(engine.room.shutil, "disk_usage", usage((64 << 20) + missing))
    merge_to_folder(recipe, out, shard_bytes=SHARD)


def test_a_merge_that_cannot_succeed_leaves_nothing(make: Make, tmp_path: Path) -> None:
    last = {"model.norm.weight": torch.full((8,), float("inf"))}
    entries = [{"model": make("a", changes=last)}]
    wrong = Recipe.model_validate({"merge_method": "passthrough", "models": entries})
    with pytest.raises(EngineError, match=r"model\.norm\.weight.*NaN or infinit"):
        merge_to_folder(wrong, tmp_path / "out", shard_bytes=SHARD)
    assert sorted(tmp_path.glob(".out*")) == []


def test_a_kill_between_the_two_renames_is_mended(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge_to_folder(recipe, out)
    before = contents(out)
    out.rename(tmp_path / ".out.replaced")
    with pytest.raises(KeyboardInterrupt):
        merge_to_folder(recipe, out, progress=lambda done, of: (_ for _ in ()).throw(KeyboardInterrupt))
    assert contents(out) == before
    assert sorted(tmp_path.glob(".out*")) == []


def test_the_layout_tells_where_tensors_stand(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge_to_folder(recipe, out, shard_bytes=SHARD)
    shards = layout(plan(recipe, {name: open_checkpoint(name) for name in recipe.references}).jobs, SHARD)
    for shard in shards:
        data, file = (out / shard.file).read_bytes(), Shard(out / shard.file)
        assert len(data) == shard.size
        assert data.startswith(shard.header)
        for name, (begin, size) in shard.offsets.items():
            assert data[begin : begin + size] == file.read(name).flatten().view(torch.uint8).numpy().tobytes()
    assert json.loads(index(shards))["metadata"]["total_size"] == sum(shard.tensor_bytes for shard in shards)
