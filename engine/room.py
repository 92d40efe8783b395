"""Whether a merge fits: the disk it is written to and the memory it is made in."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.errors import OutputError

_MARGIN = 64 << 20
"""Bytes kept free besides the weights: tokenizer files and the file system's own needs."""


def standing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def free_disk(folder: Path) -> int:
    """Return the bytes free where `folder` stands or will stand."""
    return shutil.disk_usage(standing(folder)).free


def check_disk(folder: Path, needed: int) -> None:
    """Raise OutputError unless `needed` bytes of weights can be written below `folder`."""
    free = free_disk(folder)
    if free < needed + _MARGIN:
        raise OutputError(
            f"{folder}: {in_units(needed + _MARGIN)} are needed, {in_units(free)} are free; free some space or choose"
            " another disk"
        )


def check_memory(peak: int, memory: int, device: str) -> None:
    """Raise OutputError if a merge that holds `peak` bytes at once has only `memory` on `device`."""
    if peak > memory:
        raise OutputError(
            f"memory of {device}: the largest tensor takes {in_units(peak)} to merge, {in_units(memory)} are free;"
            " end other programs, merge fewer models at once, or use a larger machine"
        )


def in_units(size: float) -> str:
    """Return a number of bytes in decimal units, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.4g} TB"
