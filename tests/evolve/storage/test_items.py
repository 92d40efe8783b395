"""The item database gives back what was added, whatever happened to its files in between."""

from __future__ import annotations

import errno
import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.atomic import UNFINISHED, sweep
from evolve.storage import item_files
from evolve.storage.item_files import FANOUT, ROWS
from evolve.storage.items import Items, row_of, short

Tasks = dict[str, dict[str, dict[str, float]]]


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def answers(seed: object, documents: int = 7, tasks: int = 2) -> Tasks:
    """Measures of a candidate: one that every document has, and one that some lack."""
    drawn = random.Random(str(seed))
    found: Tasks = {}
    for task in range(tasks):
        ids = [digest(("document", task, document)) for document in range(documents)]
        found[f"t{task}"] = {
            "acc,none": {each: float(drawn.random() < 0.5) for each in ids},
            "loglikelihood": {each: -10 * drawn.random() for each in ids[1::2]},
        }
    return found


def items_of(tasks: Tasks) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for measures in tasks.values():
        for measure, values in measures.items():
            for document, value in values.items():
                found.setdefault(short(document), {})[measure] = value
    return found


def fill(folder: Path, count: int, first: int = 0) -> Items:
    items = Items(folder)
    for number in range(first, first + count):
        items.add(digest(number), answers(number))
    return items


def holds(items: Items, numbers: range) -> None:
    for number in numbers:
        assert items.known(digest(number)) == items_of(answers(number)), number


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("count", [1, FANOUT - 1, FANOUT, 5 * FANOUT + 3])
def test_what_was_added_is_known_at_once_and_after_opening_again(tmp_path: Path, count: int) -> None:
    holds(fill(tmp_path, count), range(count))
    again = Items(tmp_path)
    holds(again, range(count))
    assert again.known(digest("never seen")) == {}


def test_files_stay_few_and_every_file_counts(tmp_path: Path) -> None:
    fill(tmp_path, FANOUT**2 + FANOUT + 2)
    levels = [name.split("-")[0] for name in files(tmp_path)]
    assert sorted(levels) == ["0", "0", "1", "2"]
    holds(Items(tmp_path), range(FANOUT**2 + FANOUT + 2))


def test_a_file_that_is_large_enough_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_files, "SETTLED", 1)
    fill(tmp_path, 2 * FANOUT)
    assert len(files(tmp_path)) == 2 * FANOUT


def test_documents_of_a_candidate_may_come_in_parts(tmp_path: Path) -> None:
    whole = answers("a")
    items = Items(tmp_path)
    for start in (0, 1):
        parts = {
            task: {measure: dict(list(values.items())[start::2]) for measure, values in measures.items()}
            for task, measures in whole.items()
        }
        items.add(digest("a"), parts)
    assert items.known(digest("a")) == items_of(whole) == Items(tmp_path).known(digest("a"))


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["acc,none", "exact_match,strict-match", "word_perplexity,none/weight", "ä b"]),
        st.dictionaries(st.integers(0, 20), st.floats(allow_nan=False), max_size=8),
        max_size=4,
    )
)
def test_values_come_back_as_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, dict[int, float]]
) -> None:
    folder = tmp_path_factory.mktemp("items")
    tasks = {"t": {measure: {digest(d): value for d, value in values.items()} for measure, values in found.items()}}
    Items(folder).add(digest("a"), tasks)
    assert Items(folder).known(digest("a")) == items_of(tasks)


def test_damage_costs_the_damaged_file_alone(tmp_path: Path) -> None:
    fill(tmp_path, FANOUT + 4)
    victims = {name: tmp_path / name for name in files(tmp_path)}
    small = [path for name, path in victims.items() if name.startswith("0-")]
    small[0].write_bytes(b"")
    small[1].write_bytes(small[1].read_bytes()[:-9])
    small[2].unlink()
    items = Items(tmp_path)
    holds(items, range(FANOUT))
    lost = [number for number in range(FANOUT, FANOUT + 4) if not items.known(digest(number))]
    assert len(lost) == 3
    for number in lost:
        items.add(digest(number), answers(number))
    holds(Items(tmp_path), range(FANOUT + 4))


def test_damage_inside_a_file_is_found_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path, FANOUT + 1)
    (large,) = tmp_path.glob("1-*")
    items = Items(tmp_path)
    data = bytearray(large.read_bytes())
    for place in range(len(data) // 4, len(data) // 2):
        data[place] ^= 0xFF
    large.write_bytes(bytes(data))
    for opened in (items, Items(tmp_path)):
        for number in range(FANOUT):
            assert opened.known(digest(number)) in ({}, items_of(answers(number)))
        holds(opened, range(FANOUT, FANOUT + 1))


def test_small_files_that_are_damaged_when_they_are_merged_cost_only_themselves(tmp_path: Path) -> None:
    fill(tmp_path, FANOUT - 1)
    items = Items(tmp_path)  # which holds no rows in memory
    (tmp_path / files(tmp_path)[3]).write_bytes(b"nothing")
    for number in range(FANOUT - 1, FANOUT + 2):
        items.add(digest(number), answers(number))
    holds(Items(tmp_path), range(4, FANOUT + 2))
    holds(Items(tmp_path), range(3))


class Killed(BaseException):
    """As SIGKILL at that place: nothing after it runs."""


@pytest.mark.parametrize("deleted", [0, 1, FANOUT - 1])
def test_a_crash_while_merged_files_are_removed_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    items, left = fill(tmp_path, FANOUT - 1), [deleted]
    unlink = Path.unlink

    def dying(self: Path, missing_ok: bool = False) -> None:
        if self.name.startswith("0-"):
            if not left[0]:
                raise Killed
            left[0] -= 1
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying)
        with pytest.raises(Killed):
            items.add(digest(FANOUT - 1), answers(FANOUT - 1))
    assert len(files(tmp_path)) == FANOUT - deleted + 1
    holds(Items(tmp_path), range(FANOUT))
    assert [name[0] for name in files(tmp_path)] == ["1"]


def test_a_crash_while_a_merged_file_is_written_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = fill(tmp_path, FANOUT - 1)
    write = pq.write_table

    def dying(table: object, file: object, **settings: object) -> None:
        write(table, file, **settings)
        if getattr(table, "num_rows", 0) > 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(item_files.pq, "write_table", dying)
        with pytest.raises(Killed):
            items.add(digest(FANOUT - 1), answers(FANOUT - 1))
    (tmp_path / f".1-00000099.parquet.x{UNFINISHED}").write_bytes(b"half")  # as a killed process leaves it
    sweep(tmp_path)
    again = Items(tmp_path)
    holds(again, range(FANOUT))
    again.add(digest(FANOUT), answers(FANOUT))
    holds(Items(tmp_path), range(FANOUT + 1))


def test_half_a_key_that_agrees_is_not_the_key(tmp_path: Path) -> None:
    one = "0" * 16 + "1" * 48
    other = "0" * 16 + "2" * 48
    items = Items(tmp_path)
    items.add(one, answers(1))
    assert items.known(other) == {}
    items.add(other, answers(2))
    assert items.known(one) == items_of(answers(1))
    assert items.known(other) == items_of(answers(2))


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.parquet").write_text("mine")
    Items(tmp_path)
    assert files(tmp_path) == ["notes.parquet"]


def test_files_that_vanish_while_the_run_goes_on_cost_their_answers_alone(tmp_path: Path) -> None:
    fill(tmp_path, FANOUT - 2)
    items = Items(tmp_path)  # which holds no rows in memory
    for path in tmp_path.iterdir():
        path.unlink()
    for number in range(FANOUT, 2 * FANOUT):
        items.add(digest(number), answers(number))
    assert items.known(digest(0)) == {}
    holds(items, range(FANOUT, 2 * FANOUT))
    holds(Items(tmp_path), range(FANOUT, 2 * FANOUT))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many files")])
def test_what_cannot_be_read_for_now_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    fill(tmp_path, FANOUT + 3)
    before = Items(tmp_path)

    def failing(path: Path) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(item_files, "opened", failing)
        assert before.known(digest(0)) == {}
        fresh = Items(tmp_path)
        assert fresh.known(digest(0)) == {}
        fresh.add(digest("new"), answers("new"))
    holds(Items(tmp_path), range(FANOUT + 3))
    assert Items(tmp_path).known(digest("new")) == items_of(answers("new"))


def test_memory_that_runs_out_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 2)

    def failing(path: Path) -> Any:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    with monkeypatch.context() as patch:
        patch.setattr(item_files, "opened", failing)
        with pytest.raises(MemoryError):
            Items(tmp_path)
    holds(Items(tmp_path), range(2))


def altered(name: str, column: Any) -> pa.Table:
    table = row_of(digest(0), answers(0)["t0"])
    return table.set_column(table.column_names.index(name), name, column)


FOREIGN_TABLES: dict[str, pa.Table] = {
    "candidate of whole numbers": altered("candidate", pa.array([5])),
    "no candidate's key": altered("candidate", pa.array([None], pa.binary(16))),
    "documents of whole numbers": altered("documents", pa.array([[1, 2]])),
    "a text for a measure": altered("measure:acc,none", pa.array([["right"]])),
    "a column too many": row_of(digest(0), answers(0)["t0"]).append_column("more", pa.array([1])),
    "another's": pa.table({"x": [1]}),
}


@pytest.mark.parametrize("name", FOREIGN_TABLES)
@pytest.mark.parametrize("sealed", [True, False])
def test_foreign_contents_are_told_by_their_columns(tmp_path: Path, name: str, sealed: bool) -> None:
    table = FOREIGN_TABLES[name]
    seal = {item_files.SEAL: item_files.seal(table.column_names, [])} if sealed else {}
    pq.write_table(table.replace_schema_metadata({b"replaces": b"[]", **seal}), tmp_path / "0-00000000.parquet")
    items = Items(tmp_path)
    assert files(tmp_path) == []
    items.add(digest(0), answers(0))
    holds(items, range(1))


@pytest.mark.parametrize("replaces", [b"5", b"{}", b"[1]", b"\xff", b"null", b'["0-00000001.parquet"]'])
def test_nothing_is_removed_on_the_word_of_a_damaged_file(tmp_path: Path, replaces: bytes) -> None:
    fill(tmp_path, 2)
    first = tmp_path / files(tmp_path)[0]
    table = pq.read_table(first)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"replaces": replaces}), first)
    holds(Items(tmp_path), range(1, 2))


def test_a_folder_may_have_a_files_name(tmp_path: Path) -> None:
    (tmp_path / "0-00000000.parquet").mkdir()
    holds(fill(tmp_path, 1), range(1))
    assert files(tmp_path) == ["0-00000000.parquet", "0-00000001.parquet"]


def test_a_measure_whose_name_a_flipped_bit_has_changed_is_not_believed(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    first = tmp_path / files(tmp_path)[0]
    data = first.read_bytes()
    assert b"acc,none" in data
    first.write_bytes(data.replace(b"acc,none", b"acc,nonf"))
    items = Items(tmp_path)
    assert items.known(digest(0)) == {}
    holds(items, range(1, 2))


def test_an_item_takes_a_few_bytes_once_files_are_merged(tmp_path: Path) -> None:
    count, documents = FANOUT**2, 50
    items = Items(tmp_path)
    for number in range(count):
        items.add(digest(number), answers(number, documents, tasks=1))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size / (count * documents) < 8, "half of the documents have 8 bytes of log-likelihood"
    assert row_of(digest(0), answers(0)["t0"]).num_rows == 1
    assert count > ROWS
