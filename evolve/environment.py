"""The process's surroundings: threads, noise of libraries, and what a report says of them."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

from evolve.workers import control_group

RECORDED = (
    "merge-evolve torch transformers tokenizers safetensors lm_eval cma optuna ray numpy huggingface_hub datasets"
)


def limit_threads(threads: int) -> None:
    """Give numeric libraries `threads` threads; before they are imported.

    Waiting threads sleep: on a busy machine spinning ones made small forward passes 10 to 100 times slower.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def usable_cores() -> int:
    """Cores this process may run on, by its affinity mask and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, control_group.cores() or cores)


def usable_memory() -> int:
    """Bytes that can be had: free memory, or what the control group leaves of it."""
    import psutil

    free: int = psutil.virtual_memory().available
    left = control_group.memory_left()
    return free if left is None else min(free, left)


def asked_threads() -> int | None:
    """The number in OMP_NUM_THREADS; None where it holds none, such as a list for nested regions."""
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    return int(text) or None if text.isdecimal() else None


def quiet() -> None:
    """Keep progress bars and advice of libraries off the terminal, and never ask a hub about a local file."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import logging

    for name in ("transformers", "datasets", "lm_eval", "lm-eval", "optuna", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def describe() -> dict[str, Any]:
    """Versions and machine, for environment.json. Nothing personal: no host name, no user, no paths."""
    versions: dict[str, str | None] = {}
    for name in RECORDED.split():
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
