"""One file of the item database, and how small ones are merged into larger ones as they grow in number.

`<level>-<number>.parquet`: every addition is a file of level 0; FANOUT files of a level become one of the next, which
names them. They are removed once it stands, so whoever dies in between leaves rows in two files, never in none: what a
whole file names is removed at the next opening.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
DAMAGE = (OSError, pa.ArrowException, KeyError, ValueError)  # what reading an incomplete or foreign file raises
WRITING: dict[str, Any] = {
    "row_group_size": ROWS,
    "compression": "zstd",
    "write_statistics": False,  # keys are random: no range of them would exclude anything
    "write_page_checksum": True,
}
REPLACES = b"replaces"
KEY_BYTES = 16  # of a sha256, enough that no two of all candidates or documents ever agree


@dataclass(frozen=True)
class ItemFile:
    """A file by its name."""

    path: Path
    level: int
    number: int

    @cached_property
    def replaces(self) -> tuple[str, ...]:
        """Names of the files that it was made of. Raises what `DAMAGE` lists."""
        return tuple(json.loads((self._opened.schema_arrow.metadata or {}).get(REPLACES, b"[]")))

    @cached_property
    def _opened(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, page_checksum_verification=True)

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """The first halves of the candidates' keys, ascending, and the rows that they stand in."""
        column = self._opened.read(columns=["candidate"]).column("candidate").combine_chunks()
        keys = np.frombuffer(b"".join(column.to_pylist()), dtype=">u8")[::2].astype(np.uint64)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def rows_of(self, candidate: bytes) -> list[int]:
        """Rows that may be the candidate's: half of the key agrees."""
        keys, rows = self._index
        half = np.frombuffer(candidate, dtype=">u8")[:1].astype(np.uint64)[0]
        first, last = np.searchsorted(keys, half, side="left"), np.searchsorted(keys, half, side="right")
        return [int(row) for row in rows[first:last]]

    def group(self, number: int) -> pa.Table:
        """The rows from ROWS * number on, ROWS of them."""
        return self._opened.read_row_group(number)

    def table(self) -> pa.Table:
        """All rows."""
        return self._opened.read()

    def close(self) -> None:
        self._opened.close()


def list_files(folder: Path, owned: bool = True) -> list[ItemFile]:
    """The whole files of the database in the order of their making.

    Damaged and replaced ones are removed, unless the database is another process's (not `owned`).
    """
    found: list[ItemFile] = []
    for path in folder.glob("*.parquet"):
        name = re.fullmatch(r"(\d+)-(\d+)\.parquet", path.name)
        if name is None:
            continue
        file = ItemFile(path, int(name[1]), int(name[2]))
        try:
            file.rows_of(bytes(KEY_BYTES))  # reads the index, so that damage shows
            found.append(file)
        except DAMAGE:
            if owned:
                path.unlink(missing_ok=True)
    replaced = {name for file in found for name in file.replaces}
    for file in found:
        if owned and file.path.name in replaced:
            file.close()
            file.path.unlink(missing_ok=True)
    return sorted((file for file in found if file.path.name not in replaced), key=lambda file: file.number)


def write_table(table: pa.Table, folder: Path, level: int, number: int, replaces: Sequence[str] = ()) -> ItemFile:
    """Write the table as one file. Raises RunError."""
    path = folder / f"{level}-{number:08d}.parquet"
    table = table.replace_schema_metadata({REPLACES: json.dumps(list(replaces)).encode()})
    # A small file that a power failure takes is a few documents; one that stands for others must be there without them.
    with replacing(path, synced=level > 0) as file:
        pq.write_table(table, file, **WRITING)
    return ItemFile(path, level, number)


def due(files: Sequence[ItemFile]) -> list[ItemFile]:
    """The files of the lowest level of which there are enough to be merged; none: an empty list."""
    for level in sorted({file.level for file in files}):
        small = [file for file in files if file.level == level and file.path.stat().st_size < SETTLED]
        if len(small) >= FANOUT:
            return small
    return []


def merge_files(files: Sequence[ItemFile], folder: Path, number: int) -> ItemFile:
    """One file of the next level with all rows. The caller removes the others. Raises what `DAMAGE` lists, RunError."""
    table = pa.concat_tables([file.table() for file in files], promote_options="default")
    return write_table(table, folder, files[0].level + 1, number, [file.path.name for file in files])
