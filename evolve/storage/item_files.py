"""One file of the item database, and how small ones are merged into larger ones as they grow in number.

`<level>-<number>.parquet`: every addition is a file of level 0; FANOUT files of a level become one of the next, which
names them. They are removed once it stands, so whoever dies in between leaves rows in two files, never in none: what a
whole file names is removed at the next opening.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evolve.atomic import replacing

FANOUT = 16
SETTLED = 4 * 2**20  # bytes of a file that is merged no further, which bounds the time and memory of a merge
ROWS = 64  # of a row group, which is what reading one candidate costs
FOREIGN = (KeyError, ValueError)  # what contents that are no item file raise; ArrowInvalid is a ValueError
WRITING: dict[str, Any] = {
    "row_group_size": ROWS,
    "compression": "zstd",
    "write_statistics": False,  # keys are random: no range of them would exclude anything
    "write_page_checksum": True,
}
REPLACES = b"replaces"
SEAL = b"seal"  # it gives away a name that a flipped bit has made another one: Parquet checks nothing but pages
KEY_BYTES = 16  # of a sha256, enough that no two of all candidates or documents ever agree
KEY = pa.binary(KEY_BYTES)
CANDIDATE, DOCUMENTS, MEASURE = "candidate", "documents", "measure:"  # columns; a measure's name follows the last


Index = tuple[np.ndarray, np.ndarray]  # the first halves of the candidates' keys, ascending, and their rows


@dataclass(frozen=True)
class ItemFile:
    """A file of `size` bytes by its name, with its index. `held`: the rows of a small one that this process wrote."""

    path: Path
    level: int
    number: int
    size: int
    replaces: tuple[str, ...] = ()  # names of the files that it was made of
    index: Index = field(default=(np.empty(0, np.uint64), np.empty(0, np.int64)), compare=False, repr=False)
    held: pa.Table | None = field(default=None, compare=False, repr=False)

    @cached_property
    def _opened(self) -> pq.ParquetFile:
        return opened(self.path)

    def rows_of(self, candidate: bytes) -> list[int]:
        """Rows that may be the candidate's: half of the key agrees."""
        keys, rows = self.index
        half = np.frombuffer(candidate, dtype=">u8")[:1].astype(np.uint64)[0]
        first, last = np.searchsorted(keys, half, side="left"), np.searchsorted(keys, half, side="right")
        return [int(row) for row in rows[first:last]]

    def group(self, number: int) -> pa.Table:
        """The rows from ROWS * number on, ROWS of them."""
        return self._opened.read_row_group(number) if self.held is None else self.held

    def table(self) -> pa.Table:
        """All rows."""
        return self._opened.read() if self.held is None else self.held


def opened(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True)


def index_of(table: pa.Table) -> Index:
    column = table.column(CANDIDATE)
    if column.null_count:
        raise ValueError("a row without a candidate")
    keys = np.frombuffer(b"".join(column.to_pylist()), dtype=">u8")[::2].astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    return keys[order], order


def named(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """What is named as a file of the database: its path, level and number."""
    for path in folder.glob("*.parquet"):
        if name := re.fullmatch(r"(\d+)-(\d+)\.parquet", path.name):
            yield path, int(name[1]), int(name[2])


def list_files(folder: Path, owned: bool = True) -> list[ItemFile]:
    """The whole files of the database in the order of their making.

    Those that are no item files, and replaced ones, are removed, unless the database is another process's (not
    `owned`). What cannot be read now is left out and left alone: it may be whole. Raises MemoryError.
    """
    found: list[ItemFile] = []
    for path, level, number in named(folder):
        try:
            with opened(path) as file:
                replaces = checked(file.schema_arrow)
                index = index_of(file.read(columns=[CANDIDATE]))
            found.append(ItemFile(path, level, number, path.stat().st_size, replaces, index))
        except FOREIGN:
            if owned:
                remove(path)
        except OSError:
            continue
    replaced = {name for file in found for name in file.replaces}
    for file in found:
        if owned and file.path.name in replaced:
            remove(file.path)
    return sorted((file for file in found if file.path.name not in replaced), key=lambda file: file.number)


def remove(path: Path) -> None:
    """Remove a file; one that cannot be removed now is removed at the next opening."""
    with suppress(OSError):
        path.unlink()


def checked(schema: pa.Schema) -> tuple[str, ...]:
    """The names of the files that this one replaces. Raises ValueError where the columns are not an item file's."""
    metadata = schema.metadata or {}
    replaces = json.loads(metadata.get(REPLACES, b"null"))
    kinds = {field.name: field.type for field in schema}
    due = {CANDIDATE: KEY, DOCUMENTS: pa.list_(KEY)} | {
        name: pa.list_(pa.float64()) for name in kinds if name.startswith(MEASURE)
    }
    if metadata.get(SEAL) != seal(schema.names, replaces) or kinds != due:
        raise ValueError("not an item file's columns")
    return tuple(replaces)


def seal(columns: Sequence[str], replaces: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps([list(columns), replaces]).encode()).hexdigest().encode()


def write_table(table: pa.Table, folder: Path, level: int, number: int, replaces: Sequence[str] = ()) -> ItemFile:
    """Write the table as one file. Raises RunError."""
    path = folder / f"{level}-{number:08d}.parquet"
    names = json.dumps(list(replaces)).encode()
    table = table.replace_schema_metadata({REPLACES: names, SEAL: seal(table.column_names, list(replaces))})
    # A small file that a power failure takes is a few documents; one that stands for others must be there without them.
    with replacing(path, synced=level > 0) as file:
        pq.write_table(table, file, **WRITING)
        size = file.tell()
    held = table if level == 0 else None
    return ItemFile(path, level, number, size, tuple(replaces), index_of(table), held)


def due(files: Sequence[ItemFile]) -> list[ItemFile]:
    """The files of the lowest level of which there are enough to be merged; none: an empty list."""
    for level in sorted({file.level for file in files}):
        small = [file for file in files if file.level == level and file.size < SETTLED]
        if len(small) >= FANOUT:
            return small
    return []


def merge_files(tables: Mapping[ItemFile, pa.Table], folder: Path, number: int) -> ItemFile:
    """One file of the next level with all rows of files of one level. The caller removes these. Raises RunError."""
    table = pa.concat_tables(tables.values(), promote_options="default")
    level = next(iter(tables)).level + 1
    return write_table(table, folder, level, number, [file.path.name for file in tables])
