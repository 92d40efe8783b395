"""The item database: what every candidate's answer to every document was worth, so that none is asked twice.

Parquet files under results/<name>/items/, one row for a candidate and those documents of a task that were scored
together: the candidate's key, the documents' digests, and for every measure a list with one value a document (null
where it has none). Only the driver writes. It is a cache: a lost or damaged file costs scoring its documents again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from evolve.storage.item_files import (
    CANDIDATE,
    DOCUMENTS,
    FOREIGN,
    KEY,
    KEY_BYTES,
    MEASURE,
    ROWS,
    ItemFile,
    due,
    list_files,
    merge_files,
    named,
    remove,
    write_table,
)

GROUPS_HELD = 8  # of rows read last: candidates are often asked for in the order in which they were added

Item = dict[str, float]  # measure -> value


class Items:
    """`known` and `add`; both take keys and digests as sha256 in hexadecimal.

    Who only reads says that the folder is not `owned`: nothing is removed from it then.
    """

    def __init__(self, folder: Path, *, owned: bool = True) -> None:
        self._folder, self._owned = folder, owned
        self._files = list_files(folder, owned)
        self._number = max((number for _, _, number in named(folder)), default=-1) + 1
        self._groups: dict[tuple[Path, int], pa.Table] = {}

    def known(self, candidate: str) -> dict[str, Item]:
        """Document digest (its first half) -> measures, of all documents that the candidate was scored on."""
        key = key_of(candidate)
        found: dict[str, Item] = {}
        for file in list(self._files):
            try:
                for row in file.rows_of(key):
                    for document, item in self._row(file, row, key).items():
                        found.setdefault(document, {}).update(item)
            except (*FOREIGN, OSError) as error:
                self._lose(file, error)
        return found

    def add(self, candidate: str, tasks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Record the measures of a candidate: task -> measure -> document digest -> value. Raises RunError."""
        rows = [row_of(candidate, measures) for measures in tasks.values() if any(measures.values())]
        if not rows:
            return
        table = pa.concat_tables(rows, promote_options="default")
        self._files.append(write_table(table, self._folder, 0, self._next()))
        while small := due(self._files):
            self._merge(small)

    def _merge(self, small: list[ItemFile]) -> None:
        """One file in place of these, without those that are damaged."""
        tables = {}
        for file in small:
            try:
                tables[file] = file.table()
            except (*FOREIGN, OSError) as error:
                self._lose(file, error)
        if len(tables) > 1:
            self._files.append(merge_files(tables, self._folder, self._next()))
            for file in tables:
                self._drop(file)
                if self._owned:
                    remove(file.path)

    def _row(self, file: ItemFile, row: int, key: bytes) -> dict[str, Item]:
        group = self._group(file, row // ROWS).slice(row % ROWS, 1).to_pylist()[0]
        if group.pop(CANDIDATE) != key:
            return {}
        found: dict[str, Item] = {document.hex(): {} for document in group.pop(DOCUMENTS)}
        for column, values in group.items():
            for item, value in zip(found.values(), values or (), strict=values is not None):
                if value is not None:
                    item[column.removeprefix(MEASURE)] = value
        return found

    def _group(self, file: ItemFile, number: int) -> pa.Table:
        place = (file.path, number)
        if place not in self._groups:
            while len(self._groups) >= GROUPS_HELD:
                del self._groups[next(iter(self._groups))]
            self._groups[place] = file.group(number)
        return self._groups[place]

    def _lose(self, file: ItemFile, error: Exception) -> None:
        """Do without a file: one that cannot be read now may be whole, and is not removed."""
        self._drop(file)
        if self._owned and not isinstance(error, OSError):
            remove(file.path)

    def _drop(self, file: ItemFile) -> None:
        self._files = [each for each in self._files if each != file]
        self._groups = {place: table for place, table in self._groups.items() if place[0] != file.path}

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


def key_of(digest: str) -> bytes:
    return bytes.fromhex(digest)[:KEY_BYTES]


def short(digest: str) -> str:
    """A document's digest as `Items.known` gives it."""
    return digest[: 2 * KEY_BYTES]


def row_of(candidate: str, measures: Mapping[str, Mapping[str, float]]) -> pa.Table:
    documents = list(dict.fromkeys(document for values in measures.values() for document in values))
    columns: dict[str, Any] = {
        CANDIDATE: pa.array([key_of(candidate)], KEY),
        DOCUMENTS: pa.array([[key_of(document) for document in documents]], pa.list_(KEY)),
    }
    for measure, values in measures.items():
        column = [[values.get(document) for document in documents]]
        columns[MEASURE + measure] = pa.array(column, pa.list_(pa.float64()))
    return pa.table(columns)
