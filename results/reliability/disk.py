"""Let the disk be full at every stage of a run, and compare the run with one that had room.

    python results/reliability/disk.py                        # from the root, as root: the demo's search

The run's folder stands on a small file system in memory (mount -t tmpfs). Once a start has found enough room, a
ballast file takes all but a little of it: first while the search records trials, then as soon as the run writes
anything, with a little more left each time, so that in turn trials, items, recipes, the checkpoint and the report meet
the full disk. When the run has ended for want of room everything in the folder is checked, the ballast removed and the
same command given again, until the run is done. Writes disk.json and disk.md beside itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from driver import PATIENCE, SEARCH, begin, configuration, finish, recorded, trials_of, yes  # noqa: E402

PAGE = 4096
SIZE = 100 * 2**20  # of the file system
BALLAST = "ballast"
ROOMS = (0, 1, 3, 9, 27)  # pages that are left while the search is at work


@dataclass(frozen=True)
class Full:
    number: int
    moment: str  # when the disk was filled
    room: int  # bytes that were left then
    code: int  # with which the run ended
    where: str  # the file that its message names
    message: str
    trials: int
    problems: list[str]  # what was found in the folder
    leftovers: int  # files under names of their own that the next start removes


def fill(mount: Path, room: int) -> None:
    """Leave `room` bytes, or less where the run writes at this moment."""
    with (mount / BALLAST).open("wb") as file:
        while True:
            state = os.statvfs(mount)
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_frsize - room))
                return


def problems_of(folder: Path) -> list[str]:
    """Files that are not whole under their final names."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            check(path)
        except (ValueError, KeyError, OSError, sqlite3.Error, yaml.YAMLError, pa.ArrowException, struct.error) as error:
            found.append(f"{path.relative_to(folder)}: {error}")
    return found


def check(path: Path) -> None:
    """Raises if the file is not whole."""
    if path.suffix == ".db":
        with sqlite3.connect(path) as database:
            if database.execute("pragma integrity_check").fetchone() != ("ok",):
                raise ValueError("not a whole database")
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".yaml":
        if not yaml.safe_load(path.read_text(encoding="utf-8")):
            raise ValueError("empty")
    elif path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix == ".safetensors":
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            if path.stat().st_size != file.tell() + end:
                raise ValueError(f"{path.stat().st_size} bytes, {file.tell() + end} expected")
    elif path.suffix in (".md", ".csv", ".html") and path.stat().st_size == 0:
        raise ValueError("empty")


def attempt(number: int, path: Path, folder: Path, step: int | str, room: int) -> Full | None:
    """One start of the run; None where it was done. `step`: fill the disk at this trial, or when this file is new."""
    began = time.time()
    process, log = begin(path)
    while process.poll() is None:
        if recorded(folder) >= step if isinstance(step, int) else is_new(folder / step, began):
            break
        time.sleep(0.001)
    fill(folder.parent, room)
    code = process.wait(PATIENCE)
    (folder.parent / BALLAST).unlink()
    if code == 0:
        return None
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    message = next((line for line in reversed(lines) if re.search(r"space|full|No room", line)), lines[-1])
    where = re.search(rf"{re.escape(str(folder))}/([^\s:;)]+)", message)
    kind = kind_of(where[1]) if where else "the folder"
    leftovers = sum(1 for each in folder.rglob(".*.unfinished"))
    message = message.replace(str(folder.parent), "results")
    moment = f"at trial {step}" if isinstance(step, int) else f"after {step}"
    return Full(number, moment, room, code, kind, message, recorded(folder), problems_of(folder), leftovers)


def is_new(path: Path, began: float) -> bool:
    try:
        return path.stat().st_mtime >= began
    except FileNotFoundError:
        return False


def kind_of(name: str) -> str:
    return re.sub(r"\d+-\d+\.parquet", "<n>.parquet", name)


def next_room(full: Full) -> int:
    """What the next start is left: a page or two more, so that the next file is met as well."""
    if full.where.endswith(".safetensors"):
        return full.room + 80 * PAGE
    return full.room + max(1, full.room // PAGE // 3) * PAGE


def page(facts: dict[str, Any], tries: list[Full]) -> str:
    same = facts["same"]
    rows = "".join(
        f"| {each.number} | {each.moment} | {each.room // 1024} | {each.trials} | {each.where} | {each.code} "
        f"| {len(each.problems)} | {each.leftovers} |\n"
        for each in tries
    )
    met = ", ".join(f"{where} ({count})" for where, count in sorted(Counter(each.where for each in tries).items()))
    return f"""# The disk was full {len(tries)} times

The demo's search ({facts["trials"]} candidates) in a folder whose file system was filled up but for some KB whenever
the run was at work, and started again by the same command; and the same search with room.
What could not be written: {met}.

| | |
|---|---|
| ended with exit code 2 and one message that says what to do | {yes(same["told"])} |
| every file under its final name was whole, every time | {yes(same["whole"])} |
| no recorded trial was lost, at any time | {yes(same["kept"])} |
| all trials as with room: ids, points to the last bit, values, recipes | {yes(same["trials"])} |
| best.yaml the same | {yes(same["winner"])} |
| the checkpoint's weights the same, byte for byte | {yes(same["checkpoint"])} |
| no leftovers in the folder at the end | {yes(same["clean"])} |

| try | filled | KB left | trials recorded | full at | exit code | damaged files | unfinished, until the next start |
|---:|---|---:|---:|---|---:|---:|---:|
{rows}
Messages were such as `{tries[-1].message if tries else ""}`.

`python results/reliability/disk.py` makes this page and disk.json.
"""


def until_done(path: Path, folder: Path, trials: int, deadline: float) -> list[Full]:
    tries: list[Full] = []
    steps: list[tuple[int | str, int]] = [
        (round(each * trials / len(ROOMS)) + 1, room * PAGE) for each, room in enumerate(ROOMS)
    ]
    step, room = steps[0]
    while (full := attempt(len(tries) + 1, path, folder, step, room)) is not None:
        tries.append(full)
        print(full, flush=True)
        if full.code != 2 and len(tries) > 1 and tries[-2].code != 2:
            sys.exit(f"the run failed twice:\n{path.with_suffix('.log').read_text()}")
        ahead = [each for each in steps if int(each[0]) > full.trials]
        if ahead:
            step, room = ahead[0]
        else:
            step, room = "search.yaml", 0 if isinstance(step, int) else next_room(full)
        if time.monotonic() > deadline:
            room = SIZE
    return tries


def ends(path: Path, folder: Path, before: int) -> list[Full]:
    """The end of the run once more: what it leaves is removed, and meets the full disk, the checkpoint also halfway."""
    for name in ("best.yaml", "report.md", "report.html", "environment.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoint")
    tries = []
    for step, room in [("trials.csv", 0), ("best.yaml", 0), ("best.yaml", 200 * PAGE), ("checkpoint/config.json", 0)]:
        full = attempt(before + len(tries) + 1, path, folder, step, room)
        if full is not None:
            tries.append(full)
            print(full, flush=True)
    if (full := attempt(0, path, folder, 0, SIZE)) is not None:
        sys.exit(f"with room it did not end: {full}")
    return tries


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=60, help="after them the run gets all the room it needs")
    parser.add_argument("--ending", action="store_true", help="only the end of the run, added to disk.json")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("mounting a small file system needs root")
    name = yaml.safe_load(SEARCH.read_text(encoding="utf-8"))["name"]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        left = configuration(options.trials, 1, Path(temporary) / "alone")
        finish(left)
        path = configuration(options.trials, 1, Path(temporary) / "full")
        small = path.parent / "small"
        small.mkdir()
        path.write_text(path.read_text().replace(f"output: {path.parent}", f"output: {small}"), encoding="utf-8")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(small)], check=True)
        try:
            folder, alone = small / name, left.parent / name
            tries: list[Full] = []
            if options.ending:
                shutil.copytree(alone, folder)
                tries += [Full(**each) for each in json.loads((options.out / "disk.json").read_text())["tries"]]
            else:
                tries += until_done(path, folder, options.trials, begun + 60 * options.minutes)
            tries += ends(path, folder, len(tries))
            weights = "checkpoint/model.safetensors"
            counts = [each.trials for each in tries]
            trials = trials_of(folder, name)
            same = {
                "told": all(each.code == 2 and each.message.count(";") for each in tries),
                "whole": not any(each.problems for each in tries),
                "kept": counts == sorted(counts),
                "trials": trials == trials_of(alone, name),
                "winner": (folder / "best.yaml").read_bytes() == (alone / "best.yaml").read_bytes(),
                "checkpoint": (folder / weights).read_bytes() == (alone / weights).read_bytes(),
                "clean": not list(folder.rglob(".*.unfinished")),
            }
        finally:
            subprocess.run(["umount", "--lazy", str(small)], check=True)
            shutil.rmtree(small)
    print(same)
    facts = {"trials": options.trials, "same": same}
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "tries": [asdict(each) for each in tries]}, indent=2)
    (options.out / "disk.json").write_text(text + "\n", encoding="utf-8")
    (options.out / "disk.md").write_text(page(facts, tries), encoding="utf-8")
    sys.exit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
