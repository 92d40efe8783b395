"""What a ledger costs: time to open it, time for a record and an event, memory and disk, by trials and by genes.

    python results/scale/ledger.py                                 # from the root: SQLite and the journal, to 100,000
    python results/scale/ledger.py --kinds sqlite --trials 1000 10000 --genes 20
    python results/scale/ledger.py --server postgresql://me:secret@127.0.0.1:5432/runs

Ledgers grow in shared memory, where nothing waits for a disk; at each size a copy on the disk (--disk) is opened by a
new process, which then records 100 trials and 50 events with every commit on the disk. A server's own disk is used
throughout. Writes ledger.json and ledger.md beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from evolve.storage.ledger import Ledger  # noqa: E402
from evolve.trial import Trial  # noqa: E402
from search_spaces.gene import Gene  # noqa: E402

RECORDS, EVENTS = 100, 50
GROWING = ("open_s", "open_computing_s", "memory_mb", "disk_mb")  # with trials


def genes_of(count: int) -> tuple[Gene, ...]:
    return tuple(Gene(f"layers.{place // 10}.weight.{place % 10}", 0.0, 1.5) for place in range(count))


def trial_of(number: int, genes: int, numbers: random.Random) -> Trial:
    """As a search of three tasks records it."""
    tasks = {task: numbers.random() for task in ("arithmetic", "sentiment", "grammar")}
    return Trial(
        id=number,
        generation=number // 32,
        point=tuple(numbers.random() for _ in range(genes)),
        digest=f"{numbers.getrandbits(256):064x}",
        value=numbers.random(),
        standard_error=numbers.random(),
        documents=300,
        tasks=tasks,
        loglikelihoods=tasks,
        seconds={"merge": numbers.random(), "forward": numbers.random()},
        finished=1.8e9 + number,
        origin="search",
        parts=tasks,
        errors=tasks,
    )


def write(ledger: Ledger, first: int, last: int, count: int) -> None:
    genes, numbers = genes_of(count), random.Random(first)
    for number in range(first, last):
        trial = trial_of(number, count, numbers)
        ledger.record(
            trial, genes, {gene.name: gene.high * at for gene, at in zip(genes[:50], trial.point, strict=False)}
        )


def measured(url: str, trials: int, genes: int) -> dict[str, float]:
    """In a process of its own: what opening costs, then a record and an event."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, computed = time.perf_counter(), time.process_time()
    ledger = Ledger(url, "run")
    found = len(ledger.trials())
    opened, computed = time.perf_counter() - start, time.process_time() - computed
    assert found == trials, (found, trials)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    start = time.perf_counter()
    write(ledger, trials, trials + RECORDS, genes)
    record = (time.perf_counter() - start) / RECORDS
    ledger.add_event("first")  # counts what stands there
    start = time.perf_counter()
    for _ in range(EVENTS):
        ledger.add_event("parted", groups=list(range(20)))
    event = (time.perf_counter() - start) / EVENTS
    return {
        "open_s": opened,
        "open_computing_s": computed,
        "memory_mb": held / 1024,
        "record_ms": 1000 * record,
        "event_ms": 1000 * event,
    }


def in_new_process(url: str, trials: int, genes: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", url, str(trials), str(genes)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def file_of(kind: str, folder: Path) -> tuple[Path, str]:
    path = folder / ("study.db" if kind == "sqlite" else "runs.log")
    return path, f"sqlite:///{path}" if kind == "sqlite" else f"journal:{path}"


def grown(kind: str, genes: int, sizes: list[int], disk: Path) -> list[dict[str, Any]]:
    rows, before = [], 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, tempfile.TemporaryDirectory(dir=disk) as copies:
        path, url = file_of(kind, Path(memory))
        for size in sizes:
            ledger = Ledger(url, "run")
            start = time.process_time()
            write(ledger, before, size, genes)
            spent = (time.process_time() - start) / (size - before)
            ledger.close()
            copy, at = file_of(kind, Path(copies))
            shutil.copyfile(path, copy)
            os.sync()
            megabytes = path.stat().st_size / 1e6
            facts = {"kind": kind, "genes": genes, "trials": size, "disk_mb": megabytes, "computing_ms": 1000 * spent}
            rows.append(facts | in_new_process(at, size, genes))
            print(json.dumps(rows[-1]), flush=True)
            before = size
    return rows


def on_server(url: str, genes: int, sizes: list[int]) -> list[dict[str, Any]]:
    """Every size is a run of its own there."""
    rows = []
    for size in sizes:
        name = f"scale-{genes}-{size}-{os.getpid()}"
        ledger = Ledger(url, name)
        start = time.perf_counter()
        write(ledger, 0, size, genes)
        spent = (time.perf_counter() - start) / size
        start = time.perf_counter()
        assert len(Ledger(url, name).trials()) == size
        opened = time.perf_counter() - start
        kind = url.split(":")[0]
        rows.append({"kind": kind, "genes": genes, "trials": size, "record_ms": 1000 * spent, "open_s": opened})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def extrapolated(rows: list[dict[str, Any]], sizes: list[int]) -> list[dict[str, Any]]:
    """Rows of the sizes that were not measured, from the largest that was; a record's cost does not grow."""
    made = []
    for kind, genes in dict.fromkeys((row["kind"], row["genes"]) for row in rows if "disk_mb" in row):
        last = max((row for row in rows if (row["kind"], row["genes"]) == (kind, genes)), key=lambda row: row["trials"])
        for size in sizes:
            if size > last["trials"]:
                grown = {key: last[key] * size / last["trials"] for key in GROWING}
                made.append({**last, **grown, "trials": size, "kind": f"{kind}, extrapolated"})
    return made


def table(rows: list[dict[str, Any]]) -> str:
    def shown(row: dict[str, Any], key: str, digits: int) -> str:
        return f"{row[key]:,.{digits}f}" if key in row else ""

    lines = [
        "| storage | genes | trials | open, s | of it computing, s | memory, MB | a record, ms | computing, ms "
        "| an event, ms | disk, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        columns = [
            ("open_s", 2),
            ("open_computing_s", 2),
            ("memory_mb", 0),
            ("record_ms", 1),
            ("computing_ms", 1),
            ("event_ms", 1),
            ("disk_mb", 1),
        ]
        cells = " | ".join(shown(row, key, digits) for key, digits in columns)
        lines.append(f"| {row['kind']} | {row['genes']:,} | {row['trials']:,} | {cells} |")
    return "\n".join(lines)


def page(rows: list[dict[str, Any]], sizes: list[int]) -> str:
    return f"""# What a ledger costs

Trials as a search of three tasks records them; up to 50 genes also stand as parameters, for dashboards, which is most
of a small trial's size. Opening is all that a start reads of its trials; memory is what this process grew by, trials
included. Computing is the driver's own time, without waiting for the disk; records and events were committed on
a disk that other work was using, so their times say more about that disk than about the ledger. With a server, a
record's time is that of its transaction over loopback.

{table(rows + extrapolated(rows, sizes))}

`python results/scale/ledger.py` makes this page and ledger.json.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="*", default=["sqlite", "journal"])
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--genes", type=int, nargs="+", default=[20, 2_000])
    parser.add_argument("--largest", type=float, default=3e7, help="trials x genes that are still measured")
    parser.add_argument("--server", nargs="*", default=[], help="URLs of databases")
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="a folder on the disk to be measured")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--add", action="store_true", help="to what ledger.json holds")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        url, trials, genes = options.measure
        print(json.dumps(measured(url, int(trials), int(genes))))
        return
    rows: list[dict[str, Any]] = []
    if options.add:
        rows += json.loads((options.out / "ledger.json").read_text(encoding="utf-8"))
    for genes in options.genes:
        sizes = [size for size in options.trials if size * genes <= options.largest]
        for kind in options.kinds:
            rows += grown(kind, genes, sizes, options.disk)
        for url in options.server:
            rows += on_server(url, genes, [size for size in sizes if size <= 10_000])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ledger.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (options.out / "ledger.md").write_text(
        page(rows, sorted({row["trials"] for row in rows} | set(options.trials))), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
