"""Bad input through the command line: one clear message, exit code 2, nothing lost, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evolve.storage.ledger import Ledger
from evolve.trial import Trial
from tests.end_to_end.conftest import DEMO, Config, command, environment, evolve

SearchFile = Callable[[Config], Path]
Told = tuple[int, str, str]
Evolve = Callable[..., Told]
BASE, SORT = DEMO / "models" / "base", DEMO / "models" / "sort"


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Evolve]:
    """The command line inside this process: exit code, stdout, stderr. A defect of ours is raised as it is."""
    from evolve.cli import app

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def call(*words: object) -> Told:
        capsys.readouterr()
        try:
            app([str(word) for word in words])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    yield call
    for each, handler in handlers.items():
        signal.signal(each, handler)


def set_key(config: Config, keys: str, value: Any) -> None:
    node: Any = config
    *parents, last = (int(key) if key.isdigit() else key for key in keys.split("."))
    for key in parents:
        node = node[key]
    node[last] = value


def refused(told: Told, *parts: str) -> None:
    code, _, err = told
    assert code == 2, err
    assert all(line.startswith("error: ") for line in err.splitlines()), err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


KEYS = [
    ("search.trials", "many", ["search.trials: ", "integer", "'many'"]),
    ("run.workers", "all", ["run.workers: ", "'auto'", "'all'"]),
    ("models.sources", "x", ["models.sources: ", "a list", "'x'"]),
    ("score.documents", 3, ["score.documents: ", "keys and values"]),
    ("score.documents.serch", 4, ["score.documents.serch: unknown key; did you mean 'search'?"]),
    ("run.worker", 4, ["run.worker: unknown key; did you mean 'workers'?"]),
    ("name", "../x", ["name: ", "letters", "'../x'"]),
    ("space.parameters", {"weight": {"low": float("nan"), "high": 1.0}}, ["weight.low: ", "finite", "nan"]),
    ("space.parameters", {"weight": {"low": 0.0, "high": float("inf")}}, ["weight.high: ", "finite", "inf"]),
    ("space.parameters", {"weight": {"low": 1.0, "high": -1.0}}, ["low 1.0 and high -1.0"]),
    ("space.parameters", {"density": "abc"}, ["space.parameters.density: 'abc'", "give a number"]),
    ("space.parameters", {"weight": ["a", "b"]}, ["space.parameters.weight: 'a'", "give a number"]),
    ("space.parameters", {"normalize": {"low": 0.0, "high": 1.0}}, ["normalize: is true or false", "[true, false]"]),
    ("space.parameters", {"density": {"low": 0.2, "high": 1.5}}, ["density is 1.5; give a number from 0 to 1"]),
    ("space.parameters", {"wieght": 1.0}, ["space.parameters: unknown parameter 'wieght'; did you mean 'weight'?"]),
    ("space.method", "tise", ["space.method[0]: unknown merge method 'tise'; did you mean 'ties'?"]),
    ("space.modules", ["mlpp"], ["space.modules: ", "'mlpp'", "such as self_attn or mlp"]),
    ("space.layers", 99, ["space.layers: 99 blocks", "6 layers"]),
    ("search.optimizer", "cmaa", ["search.optimizer: unknown optimizer 'cmaa'; did you mean 'cma'?"]),
    ("score.tasks.0.task", "demo_revers", ["'demo_revers'", "did you mean 'demo_reverse'?"]),
    ("score.tasks.0.metric", "exact_mach", ["'demo_reverse'", "'exact_mach'; did you mean 'exact_match'?"]),
    ("score.documents.report", 99999, ["'demo_pick'", "2000 distinct documents", "99999 report", "ask for fewer"]),
    ("score.include", ["/no/such"], ["include: '/no/such' is not a folder"]),
    ("score.apply_chat_template", True, ["apply_chat_template: ", "set it to false"]),
    ("score.max_length", 8, ["'demo_reverse'", "up to 10 tokens", "has room for 8", "raise max_length"]),
    ("models.base", "/no/such", ["models.base: /no/such: no such folder; give"]),
    ("models.sources.1", "/no/such", ["models.sources[1]: /no/such: no such folder; give"]),
]


@pytest.mark.parametrize(("key", "value", "parts"), KEYS, ids=lambda each: each if isinstance(each, str) else None)
def test_a_wrong_value_names_its_key(
    key: str, value: Any, parts: list[str], here: Evolve, config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    config["space"]["parameters"] = {}
    path = search_file(config)
    set_key(config, key, value)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    refused(here("run", path), *parts)
    assert not (tmp_path / "results").exists()


FILES = {
    "binary": (b"\x00\xff\xfe\x80", "cannot be read"),
    "nul": (b"\0\0\0", "is not valid YAML"),
    "empty": (b"", "is empty"),
    "tabs": (b"name:\tx\nmodels:\n\tbase: y\n", "line 3"),
    "list": (b"- 1\n", "holds list"),
    "deep": (b"{a: " * 3000 + b"1" + b"}" * 3000, "nested too deeply"),
    "code": (b"name: !!python/object:os.system x\n", "could not determine a constructor"),
    "date": (b"name: 2020-01-01\n", "name: input should be a valid string"),
    "list as key": (b"? [a]\n: b\n", "unhashable key"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_search_yaml(name: str, here: Evolve, tmp_path: Path) -> None:
    content, part = FILES[name]
    path = tmp_path / "search.yaml"
    path.write_bytes(content)
    for subcommand in ("run", "check"):
        refused(here(subcommand, path), str(path), part)
    path.unlink()
    refused(here("run", path), "there is no such file")
    refused(here("check", tmp_path), str(tmp_path), "is a folder")


def header_only(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


def truncate(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)


def corrupt(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 40)


def reshape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, folder / "model.safetensors")


def drop_layer(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if ".layers.3." not in n}, folder / "model.safetensors")


def make_nan(folder: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def index_of(folder: Path, file: str) -> None:
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))


def configure(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


MARS = {"model_type": "marsian", "architectures": ["MarsianForCausalLM"]}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
MODELS: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "truncated": ("source", truncate, ["truncated", "the file has 1000000", "download or write it again"]),
    "corrupt": ("source", corrupt, ["header is not JSON"]),
    "no tensors": ("base", header_only, ["models.base", "holds no tensors"]),
    "shape": ("source", reshape, ["model.norm.weight has shape (127,)", "(128,)", "one architecture"]),
    "layers": ("source", drop_layer, ["lacks model.layers.3.", "one architecture"]),
    "architecture": ("source", lambda f: configure(f, **MISTRAL), ["model_type is mistral", "has llama"]),
    "index outside": ("source", lambda f: index_of(f, "../outside.safetensors"), ["'../outside.safetensors'"]),
    "missing shard": ("source", lambda f: index_of(f, "model-00001.safetensors"), ["model-00001", "is missing"]),
    "pickle": ("source", pickle_only, ["not a whole file of PyTorch weights", "download or write it again"]),
    "config.json": ("source", lambda f: (f / "config.json").write_text("{") and None, ["config.json cannot be read"]),
    "no tokenizer": ("base", no_tokenizer, ["no tokenizer", "put the tokenizer's files beside the model"]),
    "other shapes": ("base", lambda f: configure(f, hidden_size=64), ["models.base", "(46, 128)", "(46, 64)"]),
    "no number": ("base", lambda f: configure(f, vocab_size="many"), ["models.base", "'many'"]),
    "unknown type": ("all", lambda f: configure(f, **MARS), ["models.base", "marsian", "newer transformers"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_broken_model_is_named(
    name: str, here: Evolve, config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    which, damage, parts = MODELS[name]
    models = config["models"]
    wanted = {"source": models["sources"][1:2], "base": [models["base"]], "all": [models["base"], *models["sources"]]}
    broken = {}
    for path in wanted[which]:
        broken[path] = str(shutil.copytree(path, tmp_path / "broken" / Path(path).name))
        damage(Path(broken[path]))
    models["base"] = broken.get(models["base"], models["base"])
    models["sources"] = [broken.get(path, path) for path in models["sources"]]
    refused(here("run", search_file(config)), next(iter(broken.values())), *parts)
    assert not (tmp_path / "results").exists()


def test_an_adapter_of_another_base(here: Evolve, config: Config, search_file: SearchFile, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): torch.zeros(4, 7), name.format("B"): torch.zeros(7, 4)}
    save_file(factors, adapter / "adapter_model.safetensors")
    config["models"]["sources"][1] = f"{BASE}+{adapter}"
    refused(here("run", search_file(config)), "models.sources[1]", "(7, 7)", "(128, 128)", "another base")
    config["models"]["sources"][1] = str(adapter)
    refused(here("run", search_file(config)), "is an adapter, not a model; write BASE+")
    assert not (tmp_path / "results").exists()


def test_nan_weights_are_refused_at_every_start(
    here: Evolve, config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    mine = shutil.copytree(SORT, tmp_path / "sort")
    make_nan(mine)
    config["models"]["sources"][1] = str(mine)
    path = search_file(config)
    for words in (("check", path), ("run", path), ("run", path)):
        refused(here(*words), f"models.sources[1] ({mine})", "up_proj.weight has NaN", "download or train it again")
    shutil.copyfile(SORT / "model.safetensors", mine / "model.safetensors")
    code, out, err = here("check", path, "--no-time")
    assert code == 0, err
    assert "all is well" in out


URLS = {
    "postgres//me:hunter2@host/db": "is not a database URL",
    "nodb://me:hunter2@host/db": "nodb is no kind of storage; known are sqlite, journal, postgresql, mysql",
    "http://me:hunter2@host:99999999/db": "http is no kind of storage",
    "sqlite:////no/such/folder/x.db": "there is no folder /no/such/folder; make it, or name a file elsewhere",
    "x.db": "(x.db): is not a database URL; write sqlite:///x.db",
}


@pytest.mark.parametrize("url", URLS)
def test_storage_that_is_none_shows_no_password(
    url: str, here: Evolve, config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    config["run"]["storage"] = url
    for word in ("check", "run"):
        told = here(word, search_file(config))
        refused(told, "run.storage", URLS[url])
        assert "hunter2" not in "".join(map(str, told))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_without_a_cluster(address: str, here: Evolve, config: Config, search_file: SearchFile) -> None:
    config["run"]["address"] = address
    refused(here("check", search_file(config), "--no-time"), f"run.address ({address})", "`ray start --head`")


def test_an_address_that_is_none(here: Evolve, config: Config, search_file: SearchFile) -> None:
    config["run"]["address"] = "nonsense"
    refused(here("check", search_file(config), "--no-time"), "run.address", "'nonsense'", "host:6379")


def test_check_warns_of_what_does_not_stop_a_run(
    here: Evolve, config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    mine = shutil.copytree(SORT, tmp_path / "sort")
    tokenizer = json.loads((mine / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (mine / "tokenizer.json").write_text(json.dumps(tokenizer))
    config["models"]["sources"][1] = str(mine)
    config["score"]["max_length"] = 14
    config["run"]["workers"] = 9999
    code, out, err = here("check", search_file(config), "--no-time")
    assert code == 0, err
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 3
    assert "run.workers (9999): may need" in warnings[0]
    assert f"models.sources[1] ({mine}): its tokenizer is not the base's: 2 tokens differ" in warnings[1]
    assert "task demo_reverse: 56 of 56 documents do not fit into 14 tokens" in warnings[2]


RECIPE = {
    "merge_method": "task_arithmetic",
    "base_model": str(BASE),
    "models": [{"model": str(SORT), "parameters": {"weight": 1.0}}],
    "dtype": "float32",
}
RECIPES = [
    ("merge_method", "task_arith", ["unknown merge method 'task_arith'; did you mean 'task_arithmetic'?"]),
    ("basemodel", "x", ["basemodel: unknown key; did you mean 'base_model'?"]),
    ("models.0.model", "/no/such", ["/no/such: no such folder"]),
    ("dtype", "float33", ["'float33' is not a dtype; did you mean 'float32'?"]),
    ("models.0.parameters.weight", "abc", ["weight: 'abc' is not a number"]),
    ("models.0.parameters.weight", float("nan"), ["weight: nan is not finite"]),
    ("models.0.parameters.weight", 1e40, ["NaN or infinite weights after the merge"]),
    ("models.0.parameters", {"wieght": 1.0}, ["'wieght'; did you mean 'weight'?"]),
]


@pytest.mark.parametrize(("key", "value", "parts"), RECIPES)
def test_a_recipe_that_cannot_be_merged(key: str, value: Any, parts: list[str], here: Evolve, tmp_path: Path) -> None:
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    set_key(recipe, key, value)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused(here("merge", tmp_path / "recipe.yaml", tmp_path / "out"), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_merge_leaves_what_is_not_its_own(here: Evolve, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "precious").write_text("x")
    file.write_text("y")
    refused(here("merge", recipe, full), str(full), "is not empty")
    refused(here("merge", recipe, file), str(file), "is a file")
    refused(here("merge", recipe, file / "below"), "cannot be made", "is a file")
    refused(here("merge", recipe, tmp_path / "out", "--device", "meta"), "--device (meta)")
    refused(here("merge", recipe, tmp_path / "out", "--device", "nonsense"), "--device (nonsense)")
    refused(here("merge", tmp_path, tmp_path / "out"), str(tmp_path), "cannot be read")
    assert (full / "precious").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "recipe.yaml"]


def test_other_commands_without_a_run(here: Evolve, tmp_path: Path) -> None:
    for subcommand in ("status", "report"):
        refused(here(subcommand, tmp_path), str(tmp_path), "no run was begun here")
    refused(here("show", "metods"), "did you mean 'methods'?")
    assert not list(tmp_path.iterdir())


def test_a_process_ends_with_code_2(config: Config, search_file: SearchFile, tmp_path: Path) -> None:
    config["models"]["sources"][1] = "/no/such"
    done = evolve("run", search_file(config), cwd=tmp_path)
    refused((done.returncode, done.stdout, done.stderr), "models.sources[1]")
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or mount("-t", "tmpfs", "-o", "size=200m", "tmpfs", folder):
        pytest.skip("file systems cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*words: object) -> int:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode


def test_a_read_only_folder(disk: Path, here: Evolve, config: Config, search_file: SearchFile) -> None:
    config["run"]["output"] = str(disk)
    assert mount("-o", "remount,ro", disk) == 0
    refused(here("run", search_file(config)), f"run.output ({disk / 'small'})", "Read-only file system", "writable")


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    assert shutil.disk_usage(disk).free == 0
    return filler


def trials_of(folder: Path) -> list[Trial]:
    """The trials without what the clock says."""
    trials = Ledger(f"sqlite:///{folder / 'study.db'}", "small", must_exist=True).trials()
    return [replace(trial, seconds={}, finished=0.0) for trial in trials]


def test_a_full_disk_and_a_second_driver_cost_nothing(
    disk: Path, here: Evolve, config: Config, search_file: SearchFile, tmp_path: Path
) -> None:
    config["score"]["tasks"] = config["score"]["tasks"][1:]
    config["score"]["documents"] = {"search": 4, "selection": 4, "report": 4}
    config["models"]["sources"].pop(0)
    config["search"] |= {"trials": 8, "finalists": 1}
    assert evolve("run", search_file(config)).returncode == 0
    undisturbed = trials_of(tmp_path / "results" / "small")

    config["run"]["output"], config["search"]["trials"] = str(disk), 4
    run = disk / "small"
    assert evolve("run", search_file(config)).returncode == 0
    assert trials_of(run) == undisturbed[:4]

    config["search"]["trials"] = 8
    path = search_file(config)
    with subprocess.Popen(
        command("run", path),
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as going_on:
        assert going_on.stdout is not None
        assert any("going on after 4" in line for line in going_on.stdout)
        os.kill(going_on.pid, signal.SIGSTOP)
        try:
            refused(here("run", path), f"{run}: another run is at work")
            filler = fill(disk)
        finally:
            os.kill(going_on.pid, signal.SIGCONT)
        _, err = going_on.communicate(timeout=120)
    refused((going_on.returncode, "", err), "full", "run the same command again")
    refused(here("run", path), "run.output", "MiB are free", "free space or name another folder")

    filler.unlink()
    assert trials_of(run) == undisturbed[: len(trials_of(run))]
    done = evolve("run", path)
    assert done.returncode == 0, done.stderr
    assert trials_of(run) == undisturbed

    config["space"]["layers"] = 3
    refused(here("run", search_file(config)), "begun with another configuration", "space.layers (was 2, is 3)")
    assert trials_of(run) == undisturbed
