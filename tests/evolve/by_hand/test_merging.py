"""`evolve merge`: each of its options, and those of mergekit-yaml."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evolve.by_hand.merge_options import parse_size
from evolve.cli import app
from evolve.errors import ConfigError

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "tests" / "goldens" / "models"
A, B, BASE = (str(MODELS / name) for name in ("a", "b", "base"))
BARE = {"model.safetensors", "config.json", "generation_config.json", "merge_recipe.yaml"}
EACH = """
import contextlib, io, json, sys
from evolve.cli import app
results = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(arguments)
        except SystemExit as stop:
            code = stop.code
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
STOPPED = """
import sys
from evolve.cli import app
import engine.write
write, calls = engine.write.write_shard, []
def stop(*arguments):
    calls.append(arguments)
    if len(calls) > 2:
        raise KeyboardInterrupt
    write(*arguments)
engine.write.write_shard = stop
app(sys.argv[1:])
"""
Result = tuple[int, str, str]


def recipe(folder: Path, **changes: Any) -> str:
    """A recipe's path."""
    models = [{"model": name, "parameters": {"weight": 0.5, "density": 0.5}} for name in (A, B)]
    content = {"merge_method": "dare_ties", "base_model": BASE, "models": models, "dtype": "float32"}
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return str(path)


def merges(*all_arguments: list[str], cwd: Path, **environment: str) -> list[Result]:
    """Exit code, output and errors of each `evolve merge`, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps([["merge", *arguments] for arguments in all_arguments])],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout.splitlines()[-1])]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_each_option_does_what_it_says(tmp_path: Path) -> None:
    path, out = recipe(tmp_path), tmp_path
    cases = {
        "plain": [],
        "auto": ["--device", "auto"],
        "half": ["--dtype", "bfloat16"],
        "shards": ["--shard-size", "4kb"],
        "seeded": ["--seed", "5"],
        "bare": ["--no-copy-tokenizer", "--no-model-card"],
        "quiet": ["--quiet"],
        "told": ["--verbose"],
        "again": ["--trust-remote-code", "--threads", "1"],
    }
    results = merges(*([path, name, *options] for name, options in cases.items()), cwd=tmp_path)
    said = {name: text for name, (code, text, err) in zip(cases, results, strict=True) if (code, err) == (0, "")}
    assert said.keys() == cases.keys(), results
    assert said["plain"].startswith("wrote plain: ")
    assert len(said["plain"].splitlines()) == 1
    assert said["quiet"] == ""
    assert said["told"].startswith("method    dare_ties\n")
    assert said["told"].endswith(said["plain"].removeprefix("wrote plain"))
    for name in ("auto", "shards", "bare", "quiet", "told", "again"):
        assert same(out / "plain", out / name) or (name == "auto" and torch.cuda.is_available()), name
    assert not same(out / "plain", out / "seeded")
    assert "seed: 5" in (out / "seeded" / "merge_recipe.yaml").read_text()
    assert {tensor.dtype for tensor in weights(out / "half").values()} == {torch.bfloat16}
    assert all(torch.equal(t, weights(out / "plain")[n].bfloat16()) for n, t in weights(out / "half").items())
    assert "out_dtype: bfloat16" in (out / "half" / "merge_recipe.yaml").read_text()
    assert len(list((out / "shards").glob("*.safetensors"))) > 1
    assert {"README.md", "tokenizer.json"} <= names(out / "plain")
    assert names(out / "bare") == BARE


def test_mergekits_options_do_what_they_do_there(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    everything = [
        "--allow-crimes", "--no-unsafe-truncate-embeddings", "--trust-remote-code", "--transformers-cache", "cache",
        "--lora-merge-cache", "lora", "--lora-merge-dtype", "float32", "--random-seed", "5", "-v", "--quiet",
        "--no-cuda", "--device", "cpu", "--low-cpu-memory", "--lazy-unpickle", "--read-to-gpu", "--no-multi-gpu",
        "-j", "1", "--async-write", "--write-threads", "2", "--out-shard-size", "0.000004B", "--copy-tokenizer",
        "--clone-tensors", "--write-model-card", "--safe-serialization",
    ]  # fmt: skip
    short = ["-j1", "-vv", "--out-shard-size=5B", "--no-write-model-card", "--no-copy-tokenizer", "--random-seed=5"]
    results = merges([path, "full", *everything], [path, "short", *short], [path, "ours", "--seed", "5"], cwd=tmp_path)
    assert [(code, err) for code, _, err in results] == [(0, "")] * 3
    assert same(tmp_path / "full", tmp_path / "ours")
    assert same(tmp_path / "short", tmp_path / "ours")
    assert len(list((tmp_path / "full").glob("*.safetensors"))) > 1
    assert names(tmp_path / "short") == BARE
    assert "cache" not in names(tmp_path)


def test_models_of_the_hub_are_looked_for_in_the_cache_that_is_named(tmp_path: Path) -> None:
    stored = tmp_path / "cache" / "models--org--name"
    shutil.copytree(A, stored / "snapshots" / "0123")
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0123")
    path = recipe(tmp_path, merge_method="passthrough", base_model=A, models=[{"model": "org/name"}])
    cases = [[path, "there", "--transformers-cache", "cache"], [path, "not", "--transformers-cache", "none"]]
    (found,), (missing,) = (
        merges(each, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home")) for each in cases
    )
    assert (found[0], found[2]) == (0, "")
    assert same(tmp_path / "there", Path(A))
    assert missing[0] == 2
    assert "org/name: no such folder, and not to be had from the Hub" in missing[2]


def test_several_recipes_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "multi.yaml").write_text(
        f"""
name: half
merge_method: linear
models: [{{model: {A}, parameters: {{weight: 0.5}}}}, {{model: {B}, parameters: {{weight: 0.5}}}}]
dtype: float32
---
merge_method: task_arithmetic
base_model: {BASE}
models: [{{model: half, parameters: {{weight: 0.5}}}}]
dtype: float32
"""
    )
    results = merges(["multi.yaml", "dry", "--dry-run"], ["multi.yaml", "out", "--dtype", "float16"], cwd=tmp_path)
    (dry_code, told, _), (code, _, err) = results
    assert (dry_code, code, err) == (0, 0, "")
    assert told.startswith("name      half\nmethod    linear\n")
    assert "takes     half" in told
    assert names(tmp_path) == {"multi.yaml", "out"}
    a, b, base, made = (weights(Path(folder)) for folder in (A, B, BASE, tmp_path / "out"))
    for name, tensor in made.items():
        half = (a[name] + b[name]) / 2
        assert torch.equal(tensor, (base[name] + 0.5 * (half - base[name])).half()), name


def test_the_page_lists_every_option() -> None:
    page = (ROOT / "docs" / "merging.md").read_text()
    command = next(each for each in app.registered_commands if each.callback and each.callback.__name__ == "merge")
    assert command.callback is not None
    listed = {word for span in re.findall(r"`([^`]+)`", page) for word in re.split(r"[ ,]+", span)}
    for name in list(inspect.signature(command.callback).parameters)[2:]:
        option = "--" + name.replace("_", "-")
        assert listed & {option, option.replace("--", "--no-", 1)}, f"docs/merging.md does not speak of {option}"


def test_architectures_mix_only_on_demand(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(B).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["OwnForCausalLM"]}))
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in (A, str(other))]
    path = recipe(tmp_path, merge_method="linear", base_model=A, models=models)
    (refused, _, err), (done, _, _) = merges([path, "x"], [path, "x", "--allow-crimes"], cwd=tmp_path)
    assert (refused, done) == (2, 0)
    assert "architectures is OwnForCausalLM" in err


def test_a_merge_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    script = "import sys\nfrom evolve.cli import app\ntry:\n    app(sys.argv[1:])\nfinally:\n    print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, "merge", recipe(tmp_path), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert "torch" in imported
    for name in (
        "transformers",
        "huggingface_hub",
        "safetensors",
        "ray",
        "optuna",
        "lm_eval",
        "rich.progress",
        "scipy",
    ):
        assert name not in imported


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    (tmp_path / "file").write_text("x")
    cases = {
        ("--device", "gpu"): "--device (gpu): cannot be used here",
        ("--device", "cpu", "--cuda"): "--cuda: asks for a GPU, --device for cpu; give one of the two",
        ("--dtype", "floot16"): "--dtype (floot16): is not a dtype; did you mean 'float16'?",
        ("--lora-merge-dtype", "x"): "--lora-merge-dtype (x): is not a dtype",
        ("--shard-size", "big"): "--shard-size (big): is no size; give bytes such as 5GB",
        ("--shard-size", "0"): "--shard-size (0): is no size",
        ("--out-shard-size", "-5B"): "--out-shard-size (-5B): is no size",
        ("--shard-size", "1GB", "--out-shard-size", "2B"): "--out-shard-size (2B): --shard-size is 1GB; give one",
        ("--seed", "1", "--random-seed", "2"): "--random-seed (2): --seed is 1; give one of the two",
        ("--threads", "1", "-j", "2"): "--num-threads (2): --threads is 1; give one of the two",
        ("--unsafe-truncate-embeddings",): "set tokenizer_source: union or base in the recipe",
        ("--no-safe-serialization",): "pickled weights are not written",
    }
    if not torch.cuda.is_available():
        cases[("--cuda",)] = cases[("--gpu-rich",)] = cases[("--multi-gpu",)] = "--device (cuda): cannot be used here"
    results = merges(*([path, "out", *options] for options in cases), [path, "file"], cwd=tmp_path)
    for (code, out, err), (options, message) in zip(results, [*cases.items(), ((), "file: is a file")], strict=True):
        assert code == 2, options
        assert message in err, f"{options}: {err}"
        assert err.startswith("error: ")
        assert (out, len(err.splitlines())) == ("", 1), options
    usage = [["--threads", "0"], ["--threads", "x"], ["-j", "0"], ["--seed", "-1"], ["--random-seed", "a"], ["--sed"]]
    for code, _, err in merges(*([path, "out", *options] for options in usage), cwd=tmp_path):
        assert code == 2
        assert "Usage: " in err
        assert "Traceback" not in err
    assert names(tmp_path) == {Path(path).name, "file"}


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    path, wrong = recipe(tmp_path), recipe(tmp_path, models=[{"model": A}])
    (tmp_path / "work").mkdir()
    arguments = [path, "deep/out", "--dry-run", "--shard-size", "4kb", "--dtype", "bfloat16"]
    told, failed = merges(arguments, [wrong, "deep/out", "--dry-run"], cwd=tmp_path / "work")
    assert (told[0], told[2]) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in told[1].splitlines() if not line.startswith("model "))
    assert lines["method"] == "dare_ties"
    assert "(base): llama, 4 layers" in told[1]
    assert lines["output"].startswith("deep/out: llama, 4 layers, vocabulary ")
    assert lines["dtypes"] == "bfloat16; computed in float32"
    assert lines["write"].endswith(" are free")
    assert "at most at once" in lines["memory"]
    assert failed[0] == 2
    assert "no weight for" in failed[2]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_dry_run_that_could_not_run_is_exit_code_2(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    poor = EACH.replace("from evolve.cli import app", "from evolve.cli import app\nimport engine.room")
    script = poor.replace("results = []", "results = []\nengine.room.free_disk = lambda _: 5", 1)
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([["merge", path, "out", "--dry-run"]])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    ((code, out, err),) = json.loads(done.stdout)
    assert code == 2
    assert "method    dare_ties" in out
    assert "are needed, 5 bytes are free; free some space or choose another disk" in err


def test_a_dry_run_sees_what_an_interrupted_start_has_made(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, "merge", path, "out", "--shard-size", "4kb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert "the same command goes on from there" in done.stderr
    size = ["--shard-size", "4kb"]
    dry, whole = merges([path, "out", *size, "--dry-run"], [path, "out", *size], cwd=tmp_path)
    assert "kept      2 files of an interrupted start" in dry[1]
    assert whole[0] == 0


def test_a_dry_run_sees_what_an_interrupted_stage_has_made(tmp_path: Path) -> None:
    models = [{"model": A, "parameters": {"weight": 1}}]
    half = {"name": "../half", "merge_method": "linear", "models": models}
    whole = {"merge_method": "linear", "models": [{"model": "../half", "parameters": {"weight": 1}}]}
    (tmp_path / "multi.yaml").write_text(yaml.safe_dump_all([half, whole]))
    arguments = ["multi.yaml", "out", "--shard-size", "4kb"]
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, "merge", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 130
    dry, done = merges([*arguments, "--dry-run"], arguments, cwd=tmp_path)
    assert "kept      2 files of an interrupted start" in dry[1]
    assert done[0] == 0
    assert names(tmp_path) == {"multi.yaml", "out"}


def test_a_terminal_shows_bytes_and_speed(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "evolve", "merge", recipe(tmp_path), str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.stdout.startswith(b"wrote ")
    assert "merging" in shown
    assert " kB" in shown


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5e9), ("5B", 5e9), ("1.5B", 1.5e9), ("900MB", 9e8), ("900m", 9e8), ("4k", 4e3), ("2GiB", 2**31),
        ("512KiB", 2**19), ("1T", 1e12), ("1_000", None), ("12345", 12345), (" 5 gb ", 5e9), (".5G", 5e8), ("", None),
        ("5GG", None), ("nan", None), ("inf", None), ("0GB", None), ("1e9", None), ("GB", None), ("5 B x", None),
    ],
)  # fmt: skip
def test_sizes(text: str, size: float | None) -> None:
    if size is not None:
        assert parse_size("--shard-size", text) == size
        return
    with pytest.raises(ConfigError, match=r"--shard-size \(.*\): is no size"):
        parse_size("--shard-size", text)
