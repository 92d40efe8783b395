"""How many workers a run gets: one a GPU, else as many as cores and memory bear."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from evolve import control_group
from evolve.setting import DTYPES, Setting

PROCESS_BYTES = 700 * 2**20  # a Python process with torch, transformers and lm-eval loaded
TOKENS = 256  # of a request, for the size of a batch's logits
DRIVER_BYTES = 900 * 2**20  # the driver itself, and Ray's own processes


@dataclass(frozen=True)
class Workers:
    """`count` workers with `threads` cores, `gpus` GPUs (a share of one may be given) and `memory` bytes each."""

    count: int
    threads: int
    gpus: float
    memory: int


def local_workers(setting: Setting) -> Workers:
    """For this machine. `run.workers: auto` never takes more than fit."""
    import torch

    memory = worker_bytes(setting)
    wanted = setting.config.run.workers
    gpus, cores = torch.cuda.device_count(), usable_cores()
    if gpus:
        count = gpus if wanted == "auto" else int(wanted)
        return Workers(count, max(1, cores // count), min(1.0, gpus / count), memory)
    fitting = max(1, int((usable_memory() - DRIVER_BYTES) // memory))
    count = min(cores, fitting) if wanted == "auto" else int(wanted)
    return Workers(count, max(1, cores // count), 0, memory)


def worker_bytes(setting: Setting) -> int:
    """Bytes of one worker: its process, the module, logits of a batch, and a merge in flight.

    Sources are memory-mapped files: their pages are shared by the workers of a machine and can be dropped.
    """
    base = setting.base
    itemsize = DTYPES[setting.score_dtype].itemsize
    elements = [info.nbytes // info.dtype.itemsize for info in base.tensors.values()]
    models = len(setting.checkpoints)
    largest = max(elements, default=0) * 4 * (2 * models + 2)  # float32 inputs, task vectors, the result
    vocabulary = int(base.config.get("vocab_size") or 0)
    logits = setting.config.score.batch_size * TOKENS * vocabulary * itemsize
    return PROCESS_BYTES + sum(elements) * itemsize + largest + logits


def usable_cores() -> int:
    """Cores this process may run on, by its affinity mask and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, control_group.cores() or cores)


def usable_memory() -> int:
    """Bytes that can be had: free memory, or what the control group leaves of it."""
    free = psutil.virtual_memory().available
    left = control_group.memory_left()
    return free if left is None else min(free, left)
