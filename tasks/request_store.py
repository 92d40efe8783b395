"""Prepared requests in files: one Arrow IPC file a set behind its sha256, written once, mapped by every worker.

A row is one request of a document, or one of its right answers (kind "gold"). Contexts, which several rows share, are
dictionary-encoded. The schema's metadata hold the digest of all inputs (`tasks.inputs`) and what was found out about
each task, so that whoever maps a file neither splits documents nor builds prompts nor tokenises. The file begins with
the sha256 of what follows, in hex: its 64 bytes keep Arrow's alignment. A file that is damaged is as good as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from lm_eval.api.instance import Instance

from tasks.documents import Document, DocumentSets
from tasks.encoding import Encoded
from tasks.gold import Gold
from tasks.prompts import DocumentRequests
from tasks.spec import SetName

INPUTS, FACTS = b"inputs", b"facts"
HEAD = 64  # bytes of the checksum
GOLD = "gold"
IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "task": pa.large_string(),
        "id": pa.int64(),
        "digest": pa.large_string(),
        "kind": pa.large_string(),
        "repeats": pa.int32(),
        "context": pa.large_string(),
        "text": pa.large_string(),  # the continuation or the whole text; JSON of the settings of a generation
        "given": IDS,
        "asked": IDS,
        "bytes": pa.int32(),  # of a right answer
    }
)
SHARED = ("task", "digest", "kind", "context")  # columns whose values many rows share: stored once each


@dataclass(frozen=True)
class Facts:
    """What is known of a task without looking at its documents."""

    sets: DocumentSets
    available: int
    benchmark: str | None


Requests = Mapping[str, Sequence[DocumentRequests]]
# What reading a file of another make can end in; pyarrow raises SystemError as well. It is then made anew.
UNREADABLE = (OSError, pa.ArrowException, SystemError, LookupError, TypeError, ValueError)


def write_set(file: IO[bytes], requests: Requests, facts: Mapping[str, Facts], inputs: str) -> None:
    """Write one set's requests of all tasks. Raises OSError."""
    rows = [row for task, documents in requests.items() for each in documents for row in _rows(task, each)]
    metadata = {
        INPUTS: inputs.encode(),
        FACTS: json.dumps({name: asdict(each) for name, each in facts.items()}).encode(),
    }
    table = pa.Table.from_pylist(rows, SCHEMA)
    for name in SHARED:
        table = table.set_column(SCHEMA.get_field_index(name), name, table[name].dictionary_encode())
    table = table.replace_schema_metadata(metadata)
    body = pa.BufferOutputStream()
    with pa.ipc.new_file(body, table.schema) as writer:
        writer.write_table(table)
    content = body.getvalue()
    file.write(hashlib.sha256(content).hexdigest().encode())
    file.write(content)


def read_facts(folder: Path, which: SetName, inputs: str) -> dict[str, Facts] | None:
    """What the set's file says of each task; None if there is none made from these inputs."""
    try:
        with _opened(_path(folder, which)) as reader:
            metadata = reader.schema.metadata or {}
            if metadata.get(INPUTS) != inputs.encode():
                return None
            found = json.loads(metadata[FACTS])
        return {
            name: Facts(
                DocumentSets(**{key: tuple(ids) for key, ids in each["sets"].items()}),
                each["available"],
                each["benchmark"],
            )
            for name, each in found.items()
        }
    except UNREADABLE:
        return None


def read_set(
    folder: Path,
    which: SetName,
    inputs: str,
    documents: Mapping[str, Sequence[Document]],
    ids: Mapping[str, Sequence[int]],
) -> dict[str, tuple[DocumentRequests, ...]] | None:
    """The set's requests by task; None if there is no whole file of these inputs with these `ids` of each task.

    `documents`: all of each task, by id.
    """
    try:
        with _opened(_path(folder, which)) as reader:
            if (reader.schema.metadata or {}).get(INPUTS) != inputs.encode():
                return None
            columns = reader.read_all().to_pydict()
        names = list(columns)
        grouped: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in documents}
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(names, values, strict=True))
            grouped[row["task"]].setdefault(row["id"], []).append(row)
        if any(sorted(grouped[task]) != sorted(ids[task]) for task in documents):
            return None
        return {
            task: tuple(_document(task, documents[task][identity], rows) for identity, rows in by_id.items())
            for task, by_id in grouped.items()
        }
    except UNREADABLE:
        return None


def _path(folder: Path, which: SetName) -> Path:
    return folder / f"{which}.arrow"


def _opened(path: Path) -> Any:
    """A reader of the file's Arrow part, mapped. Raises OSError for a file that is damaged."""
    facts = path.stat()
    if not _is_sound(path, facts.st_ino, facts.st_size, facts.st_mtime_ns):
        raise OSError(f"{path}: is damaged")
    return pa.ipc.open_file(_mapped(path)[1])


def _mapped(path: Path) -> tuple[pa.Buffer, pa.Buffer]:
    """The checksum and what it is of. The mapping lives as long as they do."""
    with pa.memory_map(str(path)) as file:
        content = file.read_buffer()
    return content.slice(0, HEAD), content.slice(HEAD)


@lru_cache(maxsize=64)
def _is_sound(path: Path, *identity: int) -> bool:
    """Whether the file's checksum is right; found out once for a file as it is."""
    checksum, body = _mapped(path)
    return bytes(checksum) == hashlib.sha256(body).hexdigest().encode()


def _rows(task: str, each: DocumentRequests) -> list[dict[str, Any]]:
    shared = {"task": task, "id": each.id, "digest": each.digest}
    rows = []
    for instance, (given, asked) in zip(each.instances, each.encoded, strict=True):
        *context, text = instance.args
        row = {"kind": instance.request_type, "repeats": instance.repeats, "context": context[0] if context else None}
        text = text if isinstance(text, str) else json.dumps(text)
        rows.append({**shared, **row, "text": text, "given": given, "asked": asked})
    for gold in each.gold:
        given, asked = gold.encoded
        row = {"kind": GOLD, "context": gold.context, "text": gold.continuation, "bytes": gold.bytes}
        rows.append({**shared, **row, "given": given, "asked": asked})
    return rows


def _document(task: str, document: Document, rows: Sequence[dict[str, Any]]) -> DocumentRequests:
    instances: list[Instance] = []
    encoded: list[Encoded] = []
    gold: list[Gold] = []
    for row in rows:
        ids = (tuple(row["given"]), tuple(row["asked"]))
        if row["kind"] == GOLD:
            gold.append(Gold(row["context"], row["text"], ids, row["bytes"]))
            continue
        text = json.loads(row["text"]) if row["kind"] == "generate_until" else row["text"]
        arguments = (text,) if row["context"] is None else (row["context"], text)
        metadata = (task, row["id"], row["repeats"])
        instances.append(Instance(row["kind"], document, arguments, len(instances), metadata))
        encoded.append(ids)
    return DocumentRequests(rows[0]["id"], document, tuple(instances), tuple(encoded), tuple(gold), rows[0]["digest"])
