"""What the Linux control group of this process allows, versions 1 and 2 (docs.kernel.org/admin-guide/cgroup-v2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def folders(controller: str) -> Iterator[Path]:
    """The group's folder and those above it, whose limits hold as well. None outside Linux."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = ROOT if not controllers else ROOT / controller
        if not controllers or controller in controllers.split(","):
            inside = Path(path.lstrip("/"))
            yield from (root / folder for folder in (inside, *inside.parents))


def numbers(path: Path) -> list[int]:
    """The numbers in a file of the group; empty where there is no such file or no limit ("max", -1)."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [int(word) for word in words if word.isdigit()]


def droppable(folder: Path) -> int:
    """Bytes of cached files that the kernel drops when memory is short; they count as used."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def memory_left() -> int | None:
    """Bytes until the nearest memory limit; None without one."""
    left = []
    for folder in folders("memory"):
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            allowed, used = numbers(folder / limit), numbers(folder / usage)
            if allowed and used:
                left.append(allowed[0] - used[0] + droppable(folder))
    return min(left, default=None)


def cores() -> int | None:
    """Whole cores that the group's time quota amounts to, at least 1; None without a quota."""
    shares = []
    for folder in folders("cpu"):
        quota = numbers(folder / "cpu.max")
        if len(quota) != 2:
            quota = [*numbers(folder / "cpu.cfs_quota_us"), *numbers(folder / "cpu.cfs_period_us")]
        if len(quota) == 2:
            shares.append(max(1, quota[0] // quota[1]))
    return min(shares, default=None)


def memory_kills() -> int:
    """How many processes the kernel of this machine has killed for want of memory, in whatever group; 0 where it does
    not tell."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
