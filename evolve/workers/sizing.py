"""How many workers a run gets, and with what each: one a GPU, else as many as cores and memory bear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolve.environment import usable_cores, usable_memory
from evolve.preparation.setting import DTYPES, Setting
from tasks.generation import PROMPTS
from tasks.slope import HELD

PROCESS_BYTES = 700 * 2**20  # a Python process with torch, transformers and lm-eval loaded
SCORED = 4  # one token in so many is scored, in tasks of short prompts
WIDTHS = 12  # activations of a token in flight, in hidden sizes: the residual, attention, the widened MLP
KEPT_WIDTHS = 35  # of a layer, in hidden sizes, that a token keeps for the way back (measured on a Llama of 135M)
DRIVER_BYTES = 900 * 2**20  # the driver itself, and Ray's own processes
SHARES = 10_000  # parts of a GPU that Ray tells apart


@dataclass(frozen=True)
class Workers:
    """`count` workers with `threads` cores, `gpus` GPUs (a share of one may be given) and `memory` bytes each."""

    count: int
    threads: int
    gpus: float
    memory: int

    @property
    def text(self) -> str:
        """How many, and what each of them has."""
        share = f"{self.gpus:g} GPU" if self.gpus else counted(self.threads, "thread")
        return f"{counted(self.count, 'worker')} with {share}{' each' if self.count > 1 else ''}"


@dataclass(frozen=True)
class Node:
    """What one machine of a cluster gives to workers; `memory` in bytes."""

    cores: int
    gpus: int
    memory: int


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def local_workers(setting: Setting, threads: int | None = None) -> Workers:
    """For this machine, with `threads` each (None: the cores are shared out). `run.workers: auto` never takes more
    than fit."""
    memory = worker_bytes(setting)
    wanted = setting.config.run.workers
    gpus, cores = usable_gpus(), usable_cores()
    if gpus:
        count = gpus if wanted == "auto" else int(wanted)
        return Workers(count, threads or max(1, cores // count), gpu_share(sharing(count, gpus)), memory)
    fitting = max(1, int((usable_memory() - DRIVER_BYTES) // memory))
    count = min(max(1, cores // (threads or 1)), fitting) if wanted == "auto" else int(wanted)
    return Workers(count, threads or max(1, cores // count), 0, memory)


def spread_workers(nodes: Sequence[Node], wanted: int | None, memory: int) -> Workers:
    """For a cluster: `wanted` workers (None: as many as it bears), each with `memory` bytes.

    Where there are GPUs, machines without one count for nothing. Every worker gets the most threads with which all
    that can be placed are, whatever machines the cluster chooses: they are alike, so no order of placing is worse.
    """
    gpus = sum(node.gpus for node in nodes)
    each = sharing(wanted or gpus, gpus) if gpus else 0
    # Workers that each machine bears by its GPUs and its memory, and its cores.
    offers = [
        (min(node.memory // memory, node.gpus * each if gpus else node.cores), node.cores)
        for node in nodes
        if node.gpus or not gpus
    ]

    def placed(threads: int) -> int:
        return sum(min(bears, cores // threads) for bears, cores in offers)

    count = wanted or max(1, placed(1))
    due = min(count, max(1, placed(1)))
    most = max((cores for _, cores in offers), default=1)
    threads = next((threads for threads in range(most, 1, -1) if placed(threads) >= due), 1)
    return Workers(count, threads, gpu_share(each) if gpus else 0, memory)


def spread_kinds(nodes: Sequence[Node], wanted: int | None, memory: int, *, cpus: bool) -> tuple[Workers, ...]:
    """As `spread_workers`; where there are GPUs and `cpus` is asked for, CPU workers on the machines without one too.

    `wanted` counts those with a GPU; the others are as many as their machines bear.
    """
    first = spread_workers(nodes, wanted, memory)
    rest = [node for node in nodes if not node.gpus]
    beside = spread_workers(rest, None, memory)
    if not (cpus and first.gpus and any(bears(node, beside, True) for node in rest)):
        return (first,)
    return first, beside


def bears(node: Node, kind: Workers, accelerated: bool) -> int:
    """How many workers of this kind a machine bears by itself; `accelerated`: among the run's workers are some with a
    GPU, so that machines with GPUs are for these."""
    fitting = min(node.memory // kind.memory, node.cores // kind.threads)
    if kind.gpus:
        return min(fitting, node.gpus * int(1 / kind.gpus + 1e-6))
    return 0 if accelerated and node.gpus else fitting


def sharing(count: int, gpus: int) -> int:
    """How many of `count` workers share a GPU: a worker cannot have parts of two."""
    return -(-count // gpus)


def gpu_share(workers: int) -> float:
    """The part of a GPU that each of `workers` on it gets, rounded down so that all of them fit."""
    return max(1, SHARES // workers) / SHARES


def worker_bytes(setting: Setting) -> int:
    """Bytes of one worker: its process, the module, logits of a batch, what is being generated, a merge in flight.

    Sources are memory-mapped files: their pages are shared by the workers of a machine and can be dropped.
    """
    base = setting.base
    itemsize = DTYPES[setting.score_dtype].itemsize
    elements = [info.nbytes // info.dtype.itemsize for info in base.tensors.values()]
    models = len(setting.checkpoints)
    largest = max(elements, default=0) * 4 * (2 * models + 2)  # float32 inputs, task vectors, the result
    vocabulary = int(base.config.get("vocab_size") or 0)
    # Only scored positions reach the head; every token of a batch costs activations and its key-value cache.
    token = vocabulary * 4 // SCORED + activation_bytes(base.config, itemsize)
    batch = setting.config.score.batch_tokens * token
    if setting.generates:
        batch += PROMPTS * setting.config.score.batch_tokens * cache_bytes(base.config, itemsize)
    if setting.config.search.gradients:
        batch = max(batch, slope_bytes(base.config, setting.config.score.batch_tokens, itemsize))
    return PROCESS_BYTES + sum(elements) * itemsize + largest + batch


def slope_bytes(config: dict[str, Any], tokens: int, itemsize: int) -> int:
    """Bytes of a pass forward and backward of a batch of `tokens`, which is cut into smaller ones for it."""
    kept = KEPT_WIDTHS * int(config.get("hidden_size") or 0) * int(config.get("num_hidden_layers") or 0) * itemsize
    return tokens // HELD * (kept + 3 * 4 * int(config.get("vocab_size") or 0) // SCORED)


def activation_bytes(config: dict[str, Any], itemsize: int) -> int:
    """Bytes that a token of a batch holds beside its logits: what a layer computes, all layers' keys and values."""
    return WIDTHS * int(config.get("hidden_size") or 0) * itemsize + cache_bytes(config, itemsize)


def cache_bytes(config: dict[str, Any], itemsize: int) -> int:
    """Bytes of a token's keys and values in all layers."""
    hidden = int(config.get("hidden_size") or 0)
    layers, heads = int(config.get("num_hidden_layers") or 0), int(config.get("num_attention_heads") or 1)
    width = int(config.get("head_dim") or hidden // heads) * int(config.get("num_key_value_heads") or heads)
    return 2 * layers * width * itemsize


def usable_gpus() -> int:
    """GPUs that this process sees."""
    import torch

    return torch.cuda.device_count()
