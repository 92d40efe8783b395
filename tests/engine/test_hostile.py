"""Models made to harm: each is refused with one line, within seconds, without running, writing or holding much."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError, EngineError
from engine.recipe import Recipe
from engine.shard import Shard
from engine.write import merge_to_folder

Make = Callable[..., str]
SECONDS = 20


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Nothing here may take long, not even what hangs."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_header(folder: Path, header: bytes, data: bytes = b"") -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


def entry(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def header_of(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries).encode()


def replace(path: Path, target: str | Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def outside(folder: Path) -> Path:
    secret = folder.parent / "outside" / "secret"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text(json.dumps({"secret": "of another"}))
    return secret


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def shard_outside(folder: Path) -> None:
    target = outside(folder).with_name("model.safetensors")
    (folder / "model.safetensors").rename(target)
    (folder / "model.safetensors").symlink_to(target)


def index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    content = {"weight_map": change(dict.fromkeys(weights, "model-1.safetensors"))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def linked_by_index(folder: Path) -> None:
    target = outside(folder).with_name("x.safetensors")
    index(folder, lambda places: places)
    (folder / "model-1.safetensors").rename(target)
    (folder / "model-1.safetensors").symlink_to(target)


BIG = 1 << 62
MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "2^62 elements": (lambda f: write_header(f, header_of({"a": entry([BIG], 0, 4 * BIG)})), "offsets"),
    "2^62 elements, no bytes": (lambda f: write_header(f, header_of({"a": entry([BIG], 0, 0)})), "needs"),
    "the product overflows to 0": (
        lambda f: write_header(f, header_of({"a": entry([1 << 32, 1 << 32, 4], 0, 0)})), "needs"),
    "a million dimensions": (lambda f: write_header(f, header_of({"a": entry([BIG] * 1_000_000, 0, 4)})), "shape"),
    "numbers of many digits": (
        lambda f: write_header(f, b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5_000_000 + b"]}}"),
        "not JSON"),
    "a deep header": (lambda f: write_header(f, b'{"a":' * 1_000_000), "not JSON"),
    "a header of gigabytes": (lambda f: sparse(f / "model.safetensors", 1 << 33), "holds no tensors|not JSON"),
    "a header above the limit": (lambda f: write_header(f, b" " * 40_000_000), "claims 40000000 bytes"),
    "a key twice": (lambda f: write_header(f, b'{"a": 1, "a": 2}'), "twice"),
    "overlapping": (
        lambda f: write_header(f, header_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}), b"x" * 12), "overlaps"),
    "a hole": (lambda f: write_header(f, header_of({"a": entry([1], 4, 8)}), b"x" * 8), "gap"),
    "beyond the end": (lambda f: write_header(f, header_of({"a": entry([4], 0, 16)}), b"x" * 8), "truncated"),
    "a line break in a name": (lambda f: write_header(f, header_of({"a\nb": entry([1], 0, 4)}), b"x" * 4), "no name"),
    "a terminal's code in a name": (
        lambda f: write_header(f, header_of({"\x1b[2J": entry([1], 0, 4)}), b"x" * 4), "no name"),
    "half a letter in a name": (lambda f: write_header(f, b'{"\\ud800": {}}'), "no name"),
    "a name of megabytes": (lambda f: write_header(f, header_of({"a." * 9**6: entry([1], 0, 4)}), b"x" * 4), "no name"),
    "an index that leads out": (lambda f: index(f, lambda p: p | {"a": "../outside/x.safetensors"}), "own folder"),
    "an index to an absolute path": (lambda f: index(f, lambda p: p | {"a": "/etc/passwd"}), "own folder"),
    "an index to a pickle": (lambda f: index(f, lambda p: p | {"a": "pytorch_model.bin"}), "own folder"),
    "an index of lists": (lambda f: index(f, lambda p: [p]), "weight_map"),
    "an index with a line break": (lambda f: index(f, lambda p: p | {"a\nb": "model-1.safetensors"}), "no name"),
    "an index that is deep": (
        lambda f: (f / "model.safetensors").rename(f / "x") and
        (f / "model.safetensors.index.json").write_text('{"a":' * 100_000), "cannot be read"),
    "a shard that is a link": (shard_outside, "out of the model's folder"),
    "a shard in an index that is a link": (linked_by_index, "out of the model's folder"),
    "a shard that is a pipe": (lambda f: fifo(f / "model.safetensors"), "has no model.safetensors"),
    "a shard that is a device": (lambda f: replace(f / "model.safetensors", "/dev/zero"), "has no model.safetensors"),
    "config.json is a link": (lambda f: replace(f / "config.json", outside(f)), "out of the model's folder"),
    "config.json is a pipe": (lambda f: fifo(f / "config.json"), "no regular file"),
    "config.json is a device": (lambda f: replace(f / "config.json", "/dev/zero"), "out of the model's folder"),
    "config.json is a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), "no regular file"),
    "config.json of a gigabyte": (lambda f: sparse(f / "config.json", 1 << 30), "bytes"),
    "config.json is deep": (lambda f: (f / "config.json").write_text("[" * 10**6), "cannot be read"),
    "config.json is rather deep": (
        lambda f: (f / "config.json").write_text('{"a": ' + "[" * 500 + "]" * 500 + "}"), "levels deep"),
    "config.json is a list": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "config.json is no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "cannot be read"),
    "layers in words": (lambda f: write_config(f, num_hidden_layers="x"), "num_hidden_layers: 'x'"),
    "layers are not a number": (lambda f: write_config(f, num_hidden_layers=float("nan")), "num_hidden_layers: nan"),
    "absurdly many layers": (lambda f: write_config(f, num_hidden_layers=1 << 60), "num_hidden_layers"),
    "a million layers": (lambda f: write_config(f, num_hidden_layers=10**6), "num_hidden_layers: 1000000"),
    "a million layers below": (
        lambda f: write_config(f, vision_config={"a": [{"n_layers": 10**6}]}), r"vision_config\.a\.n_layers: 1000000"),
    "a billion experts": (lambda f: write_config(f, num_local_experts=10**9), "num_local_experts: 1000000000"),
    "attention from the Hub": (
        lambda f: write_config(f, attn_implementation="evil/kernel"), "attn_implementation: 'evil/kernel'.*code"),
    "a part's attention from the Hub": (
        lambda f: write_config(f, text_config={"_attn_implementation": "flash|evil/kernel:f"}), "evil/kernel.*code"),
    "attention by part from the Hub": (
        lambda f: write_config(f, attn_implementation={"text": "evil/kernel"}), "evil/kernel.*code"),
    "layer types are a number": (lambda f: write_config(f, layer_types=3), "layer_types: 3"),
    "a negative vocabulary": (lambda f: write_config(f, vocab_size=-1), "vocab_size: -1"),
    "no architectures": (lambda f: write_config(f, architectures="x"), "architectures: 'x'"),
    "a line break in the model's type": (lambda f: write_config(f, model_type="a\nb"), r"model_type: 'a\\nb'"),
    "ties in words": (lambda f: write_config(f, tie_word_embeddings="no"), "tie_word_embeddings: 'no'"),
    "text_config is a list": (lambda f: write_config(f, text_config=[1]), "text_config"),
    "quantised in an odd way": (lambda f: write_config(f, quantization_config="a\nb"), "quantised"),
    "tokenizer.json is a link": (lambda f: replace(f / "tokenizer.json", outside(f)), "out of the model's folder"),
    "tokenizer.json is a pipe": (lambda f: fifo(f / "tokenizer.json"), "no regular file"),
    "tokenizer.json of a gigabyte": (lambda f: sparse(f / "tokenizer.json", 1 << 30), "bytes"),
    "the chat template is a link": (
        lambda f: replace(f / "chat_template.jinja", outside(f)), "out of the model's folder"),
    "code is a link": (
        lambda f: (write_config(f, auto_map={"AutoConfig": "mine.Mine"}), replace(f / "mine.py", outside(f))),
        "out of the model's folder"),
    "a link to nothing": (lambda f: replace(f / "tokenizer.json", f / "nothing"), "cannot be read"),
    "a link to itself": (lambda f: replace(f / "tokenizer.json", f / "tokenizer.json"), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_hostile_models_are_refused(kind: str, make: Make, tmp_path: Path) -> None:
    harm, message = MODELS[kind]
    good, folder = make("good"), make("harmful")
    harm(Path(folder))
    for several in ([folder, good], [good, folder]):
        models = ", ".join(f"{{model: {each}, parameters: {{weight: 1}}}}" for each in several)
        recipe = Recipe.from_yaml(f"{{merge_method: linear, models: [{models}]}}")
        start = time.monotonic()
        with pytest.raises(CheckpointError, match=message) as caught:
            merge_to_folder(recipe, tmp_path / "out")
        assert time.monotonic() - start < SECONDS / 2
        assert str(caught.value).isprintable()
        assert "harmful" in str(caught.value)
        assert not (tmp_path / "out").exists()


TEMPLATES = [
    "{{ 'a' * 20000000000 }} {{ messages }}",
    "{{ 9 ** 9 ** 9 }} {{ messages[0] }}",
    "{{ 'a' | center(20000000000) | upper }}",
    "{{ '%020000000000d' % 1 }} {{ messages }}",
    "{% block x %}{{ 'a' | center(20000000000) }}{% endblock %}",
    "{% macro f() %}{{ 7 ** 7 ** 7 ** 7 }}{% endmacro %}{{ f() }}",
    "{% for i in range(10 ** 10) %}{{ i }}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_of_a_chat_template_nothing_is_worked_out(template: str, make: Make, tmp_path: Path) -> None:
    models = [{"model": make("good"), "parameters": {"weight": 1}}]
    recipe = {"merge_method": "linear", "models": models, "chat_template": template}
    start = time.monotonic()
    merge_to_folder(Recipe.from_content(recipe), tmp_path / "out")
    assert time.monotonic() - start < SECONDS / 2
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == template


def test_an_endless_chat_template_is_refused() -> None:
    with pytest.raises(EngineError, match="longer than"):
        Recipe.from_content({"merge_method": "linear", "models": [{"model": "a"}], "chat_template": "{{ a }}" * 10**6})


ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (lambda f: fifo(f / "adapter_config.json"), "no regular file"),
    "a link": (lambda f: replace(f / "adapter_config.json", outside(f)), "out of the model's folder"),
    "weights are a link": (
        lambda f: (
            (f / "adapter_model.safetensors").rename(outside(f).with_name("x")),
            (f / "adapter_model.safetensors").symlink_to(outside(f).with_name("x")),
        ), "out of the model's folder"),
    "nested repeats": (lambda f: adapter_config(f, alpha_pattern={"(.*)*q_proj": 1}), "years"),
    "repeated choices": (lambda f: adapter_config(f, alpha_pattern={"(a|a|layers.*)+x": 1}), "years"),
    "many repeats": (lambda f: adapter_config(f, alpha_pattern={".*a.*b.*c.*d": 1}), "years"),
    "counted repeats": (lambda f: adapter_config(f, alpha_pattern={"(?:a{1,60}){1,60}b": 1}), "years"),
    "escaped brackets": (lambda f: adapter_config(f, alpha_pattern={r"(a[)]*)*b": 1}), "years"),
    "back references": (lambda f: adapter_config(f, alpha_pattern={r"(.*)\1x": 1}), "years"),
    "huge pattern": (lambda f: adapter_config(f, alpha_pattern={"a" * 10**6: 1}), "years"),
    "huge rank": (lambda f: adapter_config(f, r=10**400), "r is 1000"),
    "rank is infinite": (lambda f: adapter_config(f, r=float("inf")), "r is inf"),
    "a line break in the kind": (lambda f: adapter_config(f, peft_type="a\nb"), r"a\\nb"),
    "a hostile tensor": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 1 << 62)), "claims"),
}  # fmt: skip


def adapter_config(folder: Path, **changes: Any) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6} | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    folder = tmp_path / "harmful"
    folder.mkdir()
    factors = {f"{stem}.lora_A.weight": torch.ones(2, 8), f"{stem}.lora_B.weight": torch.ones(8, 2)}
    save_file(factors, folder / "adapter_model.safetensors")
    adapter_config(folder)
    return folder


@pytest.mark.parametrize("kind", ADAPTERS)
def test_hostile_adapters_are_refused(kind: str, make: Make, lora: Path) -> None:
    harm, message = ADAPTERS[kind]
    base = make("base")
    open_checkpoint(f"{base}+{lora}")
    harm(lora)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(f"{base}+{lora}")
    assert str(caught.value).isprintable()


def test_patterns_that_are_not_refused_are_matched_in_time(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    tensors = {}
    for i in range(2000):
        stem = f"base_model.model.{'a' * 230}.{i}"
        tensors |= {f"{stem}.lora_A.weight": torch.ones(1, 1), f"{stem}.lora_B.weight": torch.ones(1, 1)}
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter_config(folder, r=1, alpha_pattern={f"a*a*{i}b": i for i in range(100)})
    with pytest.raises(CheckpointError, match="too long to match"):
        open_checkpoint(f"{make('base')}+{folder}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=2000)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=5)
        | st.sampled_from(["F32", "BF16", "dtype", "shape", "data_offsets"]),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4)
        | st.fixed_dictionaries({"dtype": st.just("F32"), "shape": inner, "data_offsets": inner}),
        max_leaves=12,
    ),
    st.binary(max_size=16),
)  # fmt: skip
def test_any_header_is_read_or_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    told: list[str] = []
    try:
        shard = Shard(path)
        for name in shard.tensors:
            shard.read(name).sum()
    except CheckpointError as error:
        told.append(str(error))
    assert all(each.isprintable() for each in told)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=2000)
@given(
    st.dictionaries(
        st.sampled_from(
            ["num_hidden_layers", "layer_types", "vocab_size", "text_config", "architectures", "model_type", "auto_map",
             "tie_word_embeddings", "quantization_config", "torch_dtype", "dtype", "eos_token_id"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ),
        max_size=3,
    )
)  # fmt: skip
def test_any_config_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    save_file(
        {"model.layers.0.w": torch.ones(2), "model.embed_tokens.weight": torch.ones(2, 2)}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config))
    recipe = Recipe.from_yaml(
        f"{{merge_method: passthrough, slices: [{{sources: [{{model: {folder}, layer_range: [0, 1]}}]}},"
        f" {{sources: [{{model: {folder}, layer_range: [0, 1]}}]}}]}}"
    )
    told: list[str] = []
    try:
        merge_to_folder(recipe, folder / "out")
    except EngineError as error:
        told.append(str(error))
    assert all(each.isprintable() for each in told)


def test_tensors_without_elements_or_dimensions_and_odd_names_are_merged(make: Make, tmp_path: Path) -> None:
    odd = {
        "empty": torch.zeros(0, 4), "none": torch.zeros(0), "scalar": torch.tensor(2.0), "../up": torch.ones(3),
        "/abs/olute": torch.ones(3), "größe.層.0.w": torch.ones(2), "model.layers.99999999999999.w": torch.ones(2),
    }  # fmt: skip
    first, second = make("a", changes=odd), make("b", changes={name: 3 * tensor for name, tensor in odd.items()})
    models = ", ".join(f"{{model: {each}, parameters: {{weight: 1}}}}" for each in (first, second))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    for method in ("linear", "task_arithmetic", "ties"):
        base = "" if method == "linear" else f"base_model: {first}, "
        merge_to_folder(Recipe.from_yaml(f"{{merge_method: {method}, {base}models: [{models}]}}"), tmp_path / "out")
        merged = load_file(tmp_path / "out" / "model.safetensors")
        assert {name: merged[name].shape for name in odd} == {name: tensor.shape for name, tensor in odd.items()}
        assert method != "linear" or all(torch.equal(merged[name], 2 * tensor) for name, tensor in odd.items())
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before


def test_the_hubs_cache_is_links_and_works(make: Make, tmp_path: Path) -> None:
    plain = Path(make("plain", auto_map={"AutoConfig": "mine.Mine"}))
    (plain / "mine.py").write_text("")
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in plain.iterdir():
        path.rename(repository / "blobs" / f"hash-of-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"hash-of-{path.name}")
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "link"):
        recipe = Recipe.from_yaml(f"{{merge_method: linear, models: [{{model: {folder}, parameters: {{weight: 1}}}}]}}")
        merge_to_folder(recipe, tmp_path / "out")
        assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
        assert (tmp_path / "out" / "mine.py").is_file()
    replace(snapshot / "tokenizer.json", outside(snapshot))
    with pytest.raises(CheckpointError, match="out of the model's folder"):
        open_checkpoint(str(snapshot))


def test_absurd_claims_take_little_memory(make: Make, tmp_path: Path) -> None:
    """Measured in a process of its own."""
    program = textwrap.dedent(
        """
        import resource, sys
        from engine.checkpoint import open_checkpoint
        from engine.errors import CheckpointError
        used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before = used()
        for folder in sys.argv[1:]:
            try:
                open_checkpoint(folder)
            except CheckpointError as error:
                print(f"{used() - before:.0f} {error}")
            else:
                print("9999 was opened")
        """
    )
    folders = []
    for number, kind in enumerate(("2^62 elements", "a header of gigabytes", "a million dimensions", "a deep header",
                                   "config.json of a gigabyte", "tokenizer.json of a gigabyte")):  # fmt: skip
        folders.append(make(f"harmful-{number}"))
        MODELS[kind][0](Path(folders[-1]))
    signal.alarm(4 * SECONDS)  # a process is started, and large files are made
    many = make("many")
    write_header(Path(many), header_of({f"tensor.{i:05}": entry([1], 4 * i, 4 * i + 4) for i in range(100_000)}))
    lists = make("lists")
    write_header(Path(lists), b'{"a": [' + b"[]," * 5_000_000 + b"[]]}")
    done = subprocess.run(
        [sys.executable, "-c", program, *folders, lists, many],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    megabytes = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(megabytes) == len(folders) + 2
    assert max(megabytes[: len(folders)]) < 250
    assert max(megabytes) < 1024


COMMANDS = (
    "2^62 elements", "an index that leads out", "a shard that is a link", "config.json is a pipe", "layers in words",
    "a line break in a name", "tokenizer.json is a link", "config.json is rather deep", "a deep header",
)  # fmt: skip


class Code:
    """Unpickling this ends the process."""

    def __reduce__(self) -> Any:
        return os._exit, (99,)


@pytest.mark.parametrize("kind", [*COMMANDS, "code in a pickle", "a hostile adapter"])
def test_the_command_says_it_in_one_line(
    kind: str, make: Make, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evolve.cli import app

    folder = make("model")
    if kind == "a hostile adapter":
        adapter_config(lora, alpha_pattern={"(a+)+$": 1})
        folder = f"{folder}+{lora}"
    elif kind == "code in a pickle":
        (Path(folder) / "model.safetensors").unlink()
        torch.save({"a": Code()}, Path(folder) / "pytorch_model.bin")
    else:
        MODELS[kind][0](Path(folder))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{{merge_method: linear, models: [{{model: {folder}, parameters: {{weight: 1}}}}]}}")
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            app(["merge", str(recipe), str(tmp_path / "out")])
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(told.strip().splitlines()) == 1
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


TOKENIZERS: dict[str, Any] = {
    "no object": [],
    "no model": {},
    "ids in words": {"model": {"vocab": {"a": "x"}}},
    "an id of 2^62": {"model": {"vocab": {"a": 1 << 62}}},
    "an id of 10^10": {"model": {"vocab": {"a": 10**10}}},
    "a negative id": {"model": {"vocab": {"a": -5}}},
    "an id that is no number": {"model": {"vocab": {"a": float("nan")}}},
    "no tokens": {"model": {"vocab": {}}},
    "no scores": {"model": {"vocab": [["a"]]}},
    "an added token without id": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "x"}]},
    "added tokens in words": {"model": {"vocab": {"a": 0}}, "added_tokens": "abc"},
    "merges that are none": {"model": {"vocab": {"a": 0, "b": 1}, "merges": ["abc"]}},
    "merges of nothing": {"model": {"vocab": {"a": 0, "b": 1}, "merges": [None]}},
    "half a letter": {"model": {"vocab": {"\ud800": 0}}},
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("source", ["union", "base"])
def test_hostile_tokenizers_are_refused(kind: str, source: str, make: Make, tmp_path: Path) -> None:
    good, folder = make("good"), make("harmful")
    (Path(good) / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}, "merges": []}}))
    (Path(folder) / "tokenizer.json").write_text(json.dumps(TOKENIZERS[kind]))
    for first, second in ((good, folder), (folder, good)):
        recipe = Recipe.from_yaml(
            f"{{merge_method: task_arithmetic, base_model: {first}, tokenizer_source: {source},"
            f" models: [{{model: {second}, parameters: {{weight: 1}}}}]}}"
        )
        with pytest.raises(CheckpointError, match=r"harmful.*no usable tokenizer\.json"):
            merge_to_folder(recipe, tmp_path / "out")


def test_a_deep_tokenizer_config_is_no_crash(make: Make, tmp_path: Path) -> None:
    folder = make("harmful")
    (Path(folder) / "tokenizer_config.json").write_text("[" * 100_000)
    models = f"[{{model: {folder}, parameters: {{weight: 1}}}}]"
    merge_to_folder(
        Recipe.from_yaml(f"{{merge_method: linear, models: {models}, chat_template: auto}}"), tmp_path / "out"
    )
