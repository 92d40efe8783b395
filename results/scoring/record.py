"""What every measurement here leaves: NAME.json with raw numbers and NAME.md with a table."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
T = TypeVar("T")


def phase(name: str, work: Callable[[], T]) -> T:
    """The result of `work`, with a line on standard error about how long it took."""
    start = time.perf_counter()
    result = work()
    print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return result


def machine() -> dict[str, str]:
    """Processor and versions, as far as they bear on the figures."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = f"{len(names)} x {names[0]}" if names else model
    return {"processor": model} | {name: version(name) for name in ("torch", "transformers", "lm_eval")}


def leave(
    name: str, title: str, rows: Sequence[dict[str, Any]], raw: Any, *, notes: str = "", threads: int | None = None
) -> None:
    """Write NAME.json (`raw`) and NAME.md (`rows`, all with the keys of the first), and print the table."""
    where = machine() | ({"threads": str(threads)} if threads else {})
    (HERE / f"{name}.json").write_text(json.dumps({"machine": where, "raw": raw}, indent=1) + "\n", encoding="utf-8")
    keys = list(rows[0])
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in where.items()), ""]
    lines += ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(shown(row.get(key, "")) for key in keys) + " |" for row in rows]
    lines += ["", notes] if notes else []
    text = "\n".join(lines) + "\n"
    (HERE / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def shown(value: Any) -> str:
    """A cell: floats with three significant digits or so, everything else as it is."""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.1e}"
