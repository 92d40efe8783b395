"""What is fuzzed: each parser of outside data as a function of bytes, with seeds that it accepts.

A function may raise what users are told (EngineError, EvolveError, TaskError). Anything else that comes out is a
defect: another exception, an AssertionError of a property that does not hold, `Late` for what takes too long.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from safetensors.torch import save, save_file

from engine.adapter import Adapter
from engine.chat_template import choose_template, own_template, template_files
from engine.checkpoint import Checkpoint
from engine.errors import EngineError, shown
from engine.layout import read_layout
from engine.parameters import check_setting, evaluate
from engine.pickled import PickledShard
from engine.plan import plan
from engine.recipe import Recipe
from engine.reference import parse_reference
from engine.shard import Shard
from engine.tokenizer import extend_tokenizer, read_vocabulary
from engine.weights import open_weights
from evolve.by_hand.convert import search_yaml
from evolve.by_hand.genome import read_genetic
from evolve.by_hand.merge_options import parse_size
from evolve.by_hand.merging import read_recipes
from evolve.by_hand.score_options import gen_kwargs
from evolve.config.search_yaml import SearchConfig, load_config
from evolve.errors import EvolveError
from evolve.report.reranking import numbers, with_weights
from evolve.storage.items import Items
from evolve.storage.ledger import from_attributes
from tasks.errors import TaskError
from tasks.load import TaskLibrary
from tasks.objective import Goal, Objective

TOLD = (EngineError, EvolveError, TaskError)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Parser:
    """`read(data, folder)`: `folder` is empty before. `form` says how seeds are changed: json, yaml, text or bytes."""

    read: Callable[[bytes, Path], object]
    form: str
    seeds: Callable[[], list[bytes]]


def recipe(data: bytes, folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(data)
    for stage in read_recipes(path):
        again = Recipe.from_yaml(stage.recipe.to_yaml())
        assert again.digest == stage.recipe.digest, "a recipe that was written is another one"
        assert again.references == stage.recipe.references


def search(data: bytes, folder: Path) -> None:
    path = folder / "search.yaml"
    path.write_bytes(data)
    config = load_config(path)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True), encoding="utf-8")
    assert load_config(path) == config, "a configuration that was written is another one"


def convert(data: bytes, folder: Path) -> None:
    path = folder / "evolve.yaml"
    path.write_bytes(data)
    genetic, notes = read_genetic(path)
    text = search_yaml(genetic, path, 4, notes.append)
    SearchConfig.model_validate(yaml.safe_load(text))


def shard(data: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    read_all(Shard(path))


def pickled(data: bytes, folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    path.write_bytes(data)
    found = PickledShard(path)
    found.aliases()
    read_all(found)


def read_all(found: Shard | PickledShard) -> None:
    for name, info in found.tensors.items():
        tensor = found.read(name)
        assert tensor.shape == info.shape
        tensor.reshape(-1)[:1].clone()
        if info.shape:
            found.read(name, slice(0, 1)).clone()


def index(data: bytes, folder: Path) -> None:
    for number, names in enumerate(("ab", "c"), 1):
        save_file({name: torch.ones(2) for name in names}, folder / f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(data)
    for name, found in open_weights("model", folder).items():
        found.read(name)


def adapter(data: bytes, folder: Path) -> None:
    """{config, tensors: {name: shape}}, or else as adapter_config.json."""
    try:
        content = json.loads(data)
        config = json.dumps(content["config"]).encode()
        header, end = {}, 0
        for name, shape in content["tensors"].items():
            size = 4 * math.prod(shape) if is_small(shape) else 0
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        config, text, end = data, b"{}", 0
    (folder / "adapter_config.json").write_bytes(config)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if 0 < end < 1 << 16:
            file.truncate(8 + len(text) + end)
    found = Adapter(folder)
    infos = {f"model.{name}.weight": info for name, info in Shard(_matrices()).tensors.items()}
    for name, delta in found.fit(infos).items():
        shape = infos[name].shape
        assert found.apply(delta, lambda rows: torch.ones(8, 8)[rows or slice(None)], shape, None).shape == shape


def is_small(shape: object) -> bool:
    """Whether a file of that shape can be made; of others only the header is."""
    return isinstance(shape, list) and len(shape) < 5 and all(type(part) is int and 0 <= part < 99 for part in shape)


@lru_cache(maxsize=1)
def _matrices() -> Path:
    path = _scratch() / "matrices.safetensors"
    save_file({f"layers.{i}.{n}": torch.ones(8, 8) for i in range(2) for n in ("q_proj", "up_proj")}, path)
    return path


def _scratch() -> Path:
    path = Path(os.environ.get("FUZZ_SCRATCH", "/tmp")) / f"fuzz-{os.getpid()}"
    path.mkdir(exist_ok=True)
    return path


def config(data: bytes, folder: Path) -> None:
    """config.json of one of two models that are merged, by slices and whole."""
    tensors = {"model.embed_tokens.weight": torch.ones(4, 2), "model.norm.weight": torch.ones(2)}
    tensors |= {f"model.layers.{i}.mlp.up_proj.weight": torch.ones(2, 2) for i in range(3)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes(data)
    model = Checkpoint("model", folder)
    for body in (
        "{merge_method: passthrough, slices: [{sources: [{model: model, layer_range: [1, 3]}]}, "
        "{sources: [{model: model, layer_range: [0, 2]}]}]}",
        "{merge_method: linear, models: [{model: model, parameters: {weight: 1}}]}",
    ):
        try:
            json.dumps(plan(Recipe.from_yaml(body), {"model": model}).config)
        except EngineError:
            continue


def names(data: bytes, folder: Path) -> None:
    """Tensors' names, a line each, of which the layout of a model is read."""
    found = data.decode("utf-8", "replace").split("\n")
    read = read_layout(list(dict.fromkeys(found)))
    for module in read.modules:
        assert read.find(module) == module


def tokenizer(data: bytes, folder: Path) -> None:
    mine, other = folder / "mine", folder / "other"
    for place, text in ((mine, data), (other, _bpe())):
        place.mkdir()
        (place / "tokenizer.json").write_bytes(text)
    read_vocabulary(mine, "mine")
    for first, second in ((mine, other), (other, mine)):
        ids, files = extend_tokenizer(first, [second], ["<new>"], str(first))
        assert "<new>" in ids
        if made := files.get("tokenizer.json"):
            json.loads(made)


def _bpe() -> bytes:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "unk_token": None}
    added = {"id": 3, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}  # fmt: skip
    return json.dumps({"version": "1.0", "added_tokens": [added], "normalizer": None, "model": model}).encode()


def template(data: bytes, folder: Path) -> None:
    """A chat template, in a recipe, and tokenizer_config.json that may hold one."""
    text = data.decode("utf-8", "replace")
    (folder / "tokenizer_config.json").write_bytes(data)
    own_template(folder)
    if chosen := choose_template("auto", [folder]):
        template_files(chosen, folder, {})
    Recipe.from_content({"merge_method": "linear", "models": [{"model": "a"}], "chat_template": text})


def options(data: bytes, folder: Path) -> None:
    """What is typed: a model's name, --weights, --objective, --gen-kwargs, --shard-size."""
    kind, _, text = data.decode("utf-8", "replace").partition(":")
    goals = tuple(Goal(name, "acc,none", 1.0, higher_is_better=True) for name in ("task", "other"))
    read: dict[str, Callable[[str], object]] = {
        "weights": lambda text: with_weights(Objective(goals), text),
        "objective": lambda text: numbers(text, ["metric", "loglikelihood"], "--objective", "share"),
        "settings": lambda text: gen_kwargs([text]),
        "size": lambda text: parse_size("--shard-size", text),
    }
    read.get(kind, parse_reference)(text)


def parameters(data: bytes, folder: Path) -> None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        setting = check_setting(content)
    except ValueError as error:
        shown(str(error))
        return
    for place in (0.0, 0.37, 1.0):
        value = evaluate(setting, "model.layers.0.mlp.up_proj.weight", place)
        assert value is None or math.isfinite(value)


def trial(data: bytes, folder: Path) -> None:
    """A ledger's row."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    found = from_attributes(content if isinstance(content, dict) else {})
    assert isinstance(found.id, int)
    assert all(isinstance(each, float) for each in found.point)


def items(data: bytes, folder: Path) -> None:
    """A file of the item database, out of which a candidate's answers are read; an item file is a cache."""
    (folder / "0-00000001.parquet").write_bytes(data)
    database = Items(folder, owned=False)
    for letter in "ab":
        database.known(letter.encode().hex() * 32)


def task(data: bytes, folder: Path) -> None:
    (folder / "mine.yaml").write_bytes(data)
    (folder / "mine.jsonl").write_text('{"q": "1", "a": "2"}\n{"q": "3", "a": "4"}\n')
    (folder / "code.py").write_text("def f(*given, **named):\n    return given[0] if given else 1\n")
    TaskLibrary([folder]).load_all("mine")


def texts(*found: str) -> list[bytes]:
    return [each.encode() for each in found]


def repository(*patterns: str) -> list[bytes]:
    """Files of this repository as seeds, small ones."""
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path.read_bytes() for path in found if path.stat().st_size < 8000][:40]


def shard_seeds() -> list[bytes]:
    many = {"a": torch.ones(2), "b": torch.ones(2, 2, dtype=torch.bfloat16), "c": torch.empty(0), "d": torch.tensor(1)}
    return [save(many), save({"x": torch.zeros(3, dtype=torch.uint8)}, {"format": "pt"}), struct.pack("<Q", 2) + b"{}"]


def pickled_seeds() -> list[bytes]:
    shared = torch.ones(2, 2)
    found = []
    for content in (
        {"a": shared, "b": shared},
        {"c": torch.zeros(3, dtype=torch.bfloat16)},
        {"p": torch.nn.Parameter(shared)},
    ):
        for old in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=not old)
            found.append(stream.getvalue())
    return found


def adapter_seeds() -> list[bytes]:
    stem = "base_model.model.model.layers.{}.{}.lora_{}.weight"
    tensors = {stem.format(0, n, s): [2, 8] if s == "A" else [8, 2] for n in ("q_proj", "up_proj") for s in "AB"}
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    rich = plain | {"use_rslora": True, "alpha_pattern": {"q_proj": 3, ".*up_proj": 1}, "rank_pattern": {"q": 2},
                    "fan_in_fan_out": True, "init_lora_weights": True, "ensure_weight_tying": True}  # fmt: skip
    whole = {"base_model.model.model.layers.1.q_proj.modules_to_save.default.weight": [8, 8]}
    return [json.dumps({"config": c, "tensors": t}).encode() for c in (plain, rich) for t in (tensors, tensors | whole)]


def config_seeds() -> list[bytes]:
    plain = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 3,
        "vocab_size": 4,
        "hidden_size": 2,
        "tie_word_embeddings": True,
        "layer_types": ["full_attention"] * 3,
        "eos_token_id": 2,
    }
    sliding = plain | {
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "sliding_window": 4,
        "max_window_layers": 2,
        "use_sliding_window": True,
        "no_rope_layers": [1, 0, 1],
    }
    nested = {"model_type": "gemma3", "text_config": plain, "vision_config": {"num_hidden_layers": 2}}
    counted = {
        "model_type": "gpt2",
        "n_layer": 3,
        "attention_types": [[["global", "local"], 2]],
        "block_sparse_layers": [0, 2],
        "mlp_only_layers": [1],
        "auto_map": {"AutoConfig": "a.B"},
    }
    return [json.dumps(each).encode() for each in (plain, sliding, nested, counted)]  # fmt: skip


def trial_seeds() -> list[bytes]:
    good = {
        "id": 0,
        "generation": 0,
        "point": [0.5],
        "digest": "a",
        "value": 0.5,
        "standard_error": 0.1,
        "documents": 3,
        "tasks": {"t": 0.5},
        "loglikelihoods": {"t": -1.0},
        "failure": None,
        "seconds": {"m": 1},
        "finished": 1.0,
        "origin": "x",
        "parts": {"t": 0.5},
        "errors": {},
        "recipe": None,
        "whole": True,
    }
    bad = good | {"value": None, "failure": {"kind": "nan", "message": "x"}}
    parted = {
        "evolve": {"evolve parts": [0, 2]},
        "part:evolve:0:0": json.dumps(bad)[:30],
        "part:evolve:0:1": json.dumps(bad)[30:],
    }
    long = good | {"point": {"float64": "AAAAAAAA8D8="}}
    found = [*({"evolve": one} for one in (good, bad, long)), parted]
    return [json.dumps(each).encode() for each in found]


def item_seeds() -> list[bytes]:
    import pyarrow as pa

    from evolve.storage.item_files import KEY, write_table

    folder = _scratch() / "items"
    folder.mkdir(exist_ok=True)
    table = pa.table({"candidate": pa.array([b"a" * 16, b"b" * 16], KEY),
                      "documents": pa.array([[b"c" * 16], []], pa.list_(KEY)),
                      "measure:acc": pa.array([[1.0], []], pa.list_(pa.float64()))})  # fmt: skip
    files = [write_table(table, folder, 0, 1), write_table(table, folder, 1, 2, ["0-00000001.parquet"])]
    found = [file.path.read_bytes() for file in files]
    shutil.rmtree(folder)
    return found


TASK = """\
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: mine.jsonl}}
test_split: test
output_type: {kind}
doc_to_text: "Q {{{{q}}}}"
doc_to_target: "{{{{a}}}}"
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
{more}
""".replace("{data_files: {test: mine.jsonl}}", "{{data_files: {{test: mine.jsonl}}}}")

TEMPLATES = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}",
    '{"chat_template": [{"name": "default", "template": "{% for m in messages %}{{ m.content }}{% endfor %}"}]}',
    '{"chat_template": "{% set x = namespace(y=1) %}{% generation %}{{ x.y|trim }}{% endgeneration %}", "a": 1}',
    "{% macro f(x) %}{{ x|tojson if x is mapping else raise_exception('no') }}{% endmacro %}{{ f(messages[0]) }}",
)
GENOME = """\
genome:
  models: [a, b, c]
  merge_method: ties
  base_model: base
  layer_granularity: 2
  normalize: true
  allow_negative_weights: false
  filters: [mlp, self_attn]
  smooth: true
tasks:
  - {name: one, weight: 1.0, metric: "acc,none"}
  - two
limit: 100
"""
RECIPES = (
    "{name: x, merge_method: ties, base_model: b, dtype: bfloat16, models: [{model: a, parameters: {density: [0, 1]}}]}"
    "\n---\n{merge_method: linear, models: [{model: x}, {model: c}], tokenizer_source: union, seed: 3}\n",
    "merge_method: passthrough\nslices:\n- sources:\n  - {model: a, layer_range: [0, 2], parameters: {scale: "
    "[{filter: mlp, value: [0, 1]}, {value: 0.5}]}}\n",
    "merge_method: linear\nmodules: {text: {models: [{model: {model: {path: a, revision: r}, lora: {path: l}}}]}}\n"
    "tokenizer: {source: base, pad_to_multiple_of: 8, tokens: {t: {source: {kind: model_token, model: a, token_id: 3}, "
    "force: true}, u: {source: {kind: zero}}}}\nchat_template: chatml\n",
)

PARSERS: dict[str, Parser] = {
    "shard": Parser(shard, "shard", shard_seeds),
    "pickled": Parser(pickled, "bytes", pickled_seeds),
    "recipe": Parser(recipe, "yaml", lambda: texts(*RECIPES) + repository("tests/goldens/recipes/*.yaml")),
    "search": Parser(search, "yaml", lambda: repository("tasks/demo/search.yaml", "results/**/search*.yaml")),
    "tokenizer": Parser(tokenizer, "json", lambda: [_bpe(), *tokenizer_seeds()]),
    "config": Parser(config, "json", config_seeds),
    "adapter": Parser(adapter, "json", adapter_seeds),
    "index": Parser(index, "json", lambda: texts(
        '{"metadata": {"total_size": 24}, "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors", '
        '"c": "model-2.safetensors"}}')),
    "template": Parser(template, "json", lambda: texts(*TEMPLATES)),
    "convert": Parser(convert, "yaml", lambda: texts(GENOME)),
    "task": Parser(task, "yaml", lambda: texts(
        TASK.format(kind="generate_until", metric="exact_match", more="generation_kwargs: {until: [x]}"),
        TASK.format(kind="loglikelihood", metric="acc", more="num_fewshot: 1\nprocess_docs: !function code.f"),
        TASK.format(kind="multiple_choice", metric="acc", more="doc_to_choice: [a, b]\ntag: mine_tag"))),
    "trial": Parser(trial, "json", trial_seeds),
    "options": Parser(options, "text", lambda: texts(
        "weights:task=2,other=1", "objective:metric=1,loglikelihood=0.2", "settings:max_gen_toks=64,until=['a', \"b\"]",
        'settings:{"a": [1]}', "size:5GB", "size:2.5 GiB", "model:org/name@rev+org/lora@x", "model:./a b+~/c")),
    "parameters": Parser(parameters, "json", lambda: texts(
        "0.5", "[0, 0.5, 1]", '{"filter": "mlp", "value": [0, 1]}',
        '[{"filter": "*", "value": true}, {"value": "1e-5"}]')),
    "names": Parser(names, "text", lambda: texts(
        "model.embed_tokens.weight\nmodel.layers.0.mlp.weight\nmodel.layers.1.mlp.weight\nlm_head.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight\ndecoder.block.0.x\nshared.weight",
        "model.visual.blocks.0.a\nmodel.language_model.layers.0.b\nmodel.language_model.embed_tokens.weight")),
    "items": Parser(items, "bytes", item_seeds),
}  # fmt: skip


def tokenizer_seeds() -> list[bytes]:
    unigram = {"added_tokens": [], "model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5]], "unk_id": 0}}
    pieces = {
        "added_tokens": [{"id": 0, "content": "[UNK]"}],
        "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "c": 1}},
    }
    merges = {"added_tokens": None, "model": {"type": "BPE", "vocab": {"b": 0, "c": 1, "bc": 2}, "merges": ["b c"]}}
    return [json.dumps(each).encode() for each in (unigram, pieces, merges)]
