"""The options of `evolve merge`, and those of mergekit-yaml (github.com/arcee-ai/mergekit, README), which it takes too.

A script moves over by changing the name of its command: what has an equivalent becomes it, what asks for something
that is always so has no effect, and what is not done here is refused with what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from evolve.errors import ConfigError

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
UNITS |= {f"{prefix}B": 1000.0**power for power, prefix in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}IB": 1024.0**power for power, prefix in enumerate("KMGT", 1)}
SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)

Device = Annotated[str | None, typer.Option(help="where to compute: cpu (default), cuda, cuda:1, auto ...")]
Dtype = Annotated[str | None, typer.Option(help="of the written weights; else the recipe's, else the models'")]
ShardSize = Annotated[str | None, typer.Option(help="largest file: 5GB (default), 900MB, 2GiB ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="of the CPU; else OMP_NUM_THREADS, else one a core")]
Seed = Annotated[int | None, typer.Option(min=0, help="of random methods; else the recipe's, else 0")]
Tokenizer = Annotated[bool, typer.Option(help="copy the tokenizer's files")]
ModelCard = Annotated[bool, typer.Option(help="write README.md with the recipe")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check and print the plan, write nothing")]
Trust = Annotated[bool, typer.Option(help="no effect: a model's own code is copied, never run")]
Quiet = Annotated[bool, typer.Option(help="print errors only")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, show_default=False, help="print the plan as well")]

Flag = Annotated[bool, typer.Option(hidden=True)]
GpuRich = Annotated[bool, typer.Option("--gpu-rich", hidden=True)]
Text = Annotated[str | None, typer.Option(hidden=True)]
Whole = Annotated[int | None, typer.Option(hidden=True)]
NumThreads = Annotated[int | None, typer.Option("--num-threads", "-j", min=1, hidden=True)]
RandomSeed = Annotated[int | None, typer.Option(min=0, hidden=True)]
WriteCard = Annotated[bool | None, typer.Option("--write-model-card/--no-write-model-card", hidden=True)]

EPILOG = "The options of mergekit-yaml are accepted as well, see docs/merging.md."


@dataclass(frozen=True)
class MergeOptions:
    """What was asked for, whichever command's options said it. `shard_bytes` None: the writer's own."""

    device: str
    dtype: str | None
    shard_bytes: float | None
    seed: int | None
    copy_tokenizer: bool
    model_card: bool
    any_architecture: bool
    download_cache: Path | None
    dry_run: bool
    quiet: bool
    verbose: bool


def threads_of(given: Mapping[str, Any]) -> int | None:
    """The threads that are asked for. Raises nothing: a contradiction shows in `merge_options`."""
    threads: int | None = given["threads"] or given["num_threads"]
    return threads


def merge_options(given: Mapping[str, Any]) -> MergeOptions:
    """Raises ConfigError for options that contradict each other, that have no such value, or that are not done here."""
    _refuse(given)
    size = _one_of(given, "shard_size", "out_shard_size")
    cache = given["transformers_cache"]
    _one_of(given, "threads", "num_threads")
    return MergeOptions(
        device=_device(given),
        dtype=None if given["dtype"] is None else _dtype("--dtype", given["dtype"]),
        shard_bytes=None if size is None else parse_size(*size),
        seed=(_one_of(given, "seed", "random_seed") or ("", None))[1],
        copy_tokenizer=given["copy_tokenizer"],
        model_card=given["model_card"] if given["write_model_card"] is None else given["write_model_card"],
        any_architecture=given["allow_crimes"],
        download_cache=None if cache is None else Path(cache).expanduser(),
        dry_run=given["dry_run"],
        quiet=given["quiet"],
        verbose=given["verbose"] > 0,
    )


def parse_size(option: str, text: str) -> float:
    """Return bytes. k, m, g and t count in thousands, KiB, MiB ... in 1024s; a bare b is a billion, as in mergekit."""
    match = SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in UNITS or not float(match[1]):
        raise ConfigError(f"{option} ({text}): is no size; give bytes such as 5GB, 900MB or 2GiB")
    return float(match[1]) * UNITS[match[2].upper()]


def _refuse(given: Mapping[str, Any]) -> None:
    if given["unsafe_truncate_embeddings"]:
        raise ConfigError(
            "--unsafe-truncate-embeddings: rows are never cut off, as tokens would lose or change their meaning; set"
            " tokenizer_source: union or base in the recipe"
        )
    if not given["safe_serialization"]:
        raise ConfigError(
            "--no-safe-serialization: pickled weights are not written, as reading them can run code; leave the option"
            " out"
        )
    if given["lora_merge_dtype"] is not None:  # adapters are always applied in float32
        _dtype("--lora-merge-dtype", given["lora_merge_dtype"])


def _device(given: Mapping[str, Any]) -> str:
    gpu = next((name for name in ("cuda", "gpu_rich", "multi_gpu") if given[name]), None)
    device: str | None = given["device"]
    if gpu and device is not None and not device.startswith("cuda"):
        raise ConfigError(f"{_spelled(gpu)}: asks for a GPU, --device for {device}; give one of the two")
    return device or ("cuda" if gpu else "cpu")


def _one_of(given: Mapping[str, Any], ours: str, theirs: str) -> tuple[str, Any] | None:
    """The option that was given, as it is written, with its value. Raises ConfigError for two values."""
    values = [(_spelled(name), given[name]) for name in (ours, theirs) if given[name] is not None]
    if len(values) == 2 and values[0][1] != values[1][1]:
        raise ConfigError(f"{values[1][0]} ({values[1][1]}): {values[0][0]} is {values[0][1]}; give one of the two")
    return values[0] if values else None


def _dtype(option: str, name: str) -> str:
    from engine.lookup import nearest
    from engine.recipe import DTYPES

    short = name.removeprefix("torch.")
    if short not in DTYPES:
        raise ConfigError(f"{option} ({name}): is not a dtype{nearest(short, DTYPES)}; give one of {', '.join(DTYPES)}")
    return short


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")
