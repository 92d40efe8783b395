"""`evolve fetch`: a run's results from a cluster, in pieces, each file checked by its digest.

Files gather in a hidden folder beside the asked one, which takes its name when all are there and right. An
interrupted fetch goes on at the first missing piece. What the cluster says of paths and sizes is checked: nothing is
written outside of that folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # another class before Python 3.11
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from engine.digest import digest_of
from engine.strict_yaml import load_yaml
from evolve.atomic import UNFINISHED
from evolve.errors import RunError
from evolve.preparation.belonging import MARK as LEDGER_MARK
from evolve.preparation.belonging import OWN
from evolve.submission import sending
from evolve.submission.fetched import MARK, Fetched, begin_with, earlier, files_of, put, tidy, unfinished
from evolve.submission.jobs import Call, Jobs, reading
from evolve.workers.reaching import last_line

PIECE = 16 * 2**20  # bytes asked for at once
AHEAD = 4  # pieces under way
PATIENCE = 600.0  # seconds for one answer
SPARE = 64 * 2**20  # bytes of the disk that stay free
INNER = ("requests", "items")  # folders that only the search itself reads
BULK = ("checkpoint",)
SMALL = 2**22  # bytes that a search.yaml has at most
CLIENT_PORT = 10001  # of Ray's client server, unless the head was started with another one


def fetch(
    name: str, address: str, out: Path | None, client: str | None, folder: str | None, checkpoint: bool, whole: bool
) -> None:
    """Bring a run's folder here, to `out` or results/<name>, or bring up to date what an earlier fetch left there.
    Raises RunError."""
    target = out or Path("results", name)
    if target.is_symlink() or target.name in ("", ".."):  # a link stays one; "." has no name
        target = Path(os.path.realpath(target))
    before = earlier(target, name)
    if before is not None:  # what came then comes again: it belongs together
        checkpoint, whole = (asked or has(before, *parts) for asked, parts in ((checkpoint, BULK), (whole, INNER)))
    node = None
    named = folder is not None
    if folder is None:
        folder, node = place_of_run(name, address)
    with reading(client or client_address(address), node) as call:
        check_run(call, name, folder, named, before, target)
        chosen = [each for each in listed(call, folder) if is_wanted(each[0], checkpoint, whole)]
        own = own_files(target, before, [path for path, _ in chosen])
        partial = target.parent / f".{target.name}.fetching"
        with writing(partial):
            partial.mkdir(parents=True, exist_ok=True)
            if before is not None:
                begin_with(target, before, partial)
        missing = {path: max(0, size - arrived(partial, target, path)) for path, size in chosen}
        check_disk(partial, missing, lambda path: before is not None and is_same(call, folder, path, before))
        digests = {path: bring(call, folder, path, size, partial) for path, size in chosen}
    with writing(partial):
        tidy(partial, {*digests, *own})
        lacks = unfinished(partial, checkpoint)
        if (partial / OWN).is_file():  # to look at it may have undone what a killed driver had half-written
            digests[OWN] = digest_of(partial / OWN)
        put(partial, target, Fetched(name, folder, digests))
    print(f"{len(chosen)} files, {amount(sum(size for _, size in chosen))}, every digest verified: {target}")
    if lacks:
        print(f"{name}: {lacks}; the same command brings the rest when it has")


def check_run(call: Call, name: str, folder: str, named: bool, before: Fetched | None, target: Path) -> None:
    """Raises RunError for a folder there that is not the run's, or not the one that was fetched `before`; `named`: it
    was the user who told it."""
    if before is not None and before.folder != folder:
        raise RunError(f"{target}: was fetched from {before.folder}, not from {folder}; name another folder")
    begun = beginning(call, folder, "search.yaml")
    if not begun and not named:
        raise RunError(f"{folder}: holds no results yet on the cluster; follow the run to its end first")
    if not begun:
        raise RunError(f"{folder}: is no run's folder (it has no search.yaml); give that of {name} with --from PATH")
    found = value_of(load_yaml, begun, "name")
    if found != name:
        raise RunError(f"{folder}: holds the run {found!r:.80}, not {name}; give its name, or the folder of {name}")
    ledger = target / LEDGER_MARK
    if before is not None and ledger.is_file():
        here, there = (
            value_of(json.loads, ledger.read_bytes(), "id"),
            value_of(json.loads, beginning(call, folder, LEDGER_MARK), "id"),
        )
        if here != there:
            raise RunError(
                f"{target}: holds another run of this name, which {folder} held when it came; name another folder"
            )


def beginning(call: Call, folder: str, name: str) -> bytes:
    """A small file there; nothing of one that is not there. Raises RunError where the folder is not."""
    data = answer(call(sending.beginning, folder, name, SMALL))
    if data is None:
        raise RunError(f"{folder}: is not there on the cluster's head; give the run's folder with --from PATH")
    return bytes(data)


def value_of(parse: Callable[[str], Any], text: bytes, key: str) -> Any:
    """What stands under a key of a file; None where it is no such file."""
    try:
        data = parse(text.decode("utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError):
        return None
    return data.get(key) if isinstance(data, dict) else None


def has(before: Fetched, *parts: str) -> bool:
    """Whether files of one of these folders were brought."""
    return any(path.split("/")[0] in parts for path in before.files)


def own_files(target: Path, before: Fetched | None, coming: Sequence[str]) -> set[str]:
    """What the user has put beside the fetched files. Raises RunError for what would be lost."""
    own = set() if before is None else {*files_of(target)} - {*before.files, MARK}
    if lost := sorted(own & {*coming}):
        raise RunError(
            f"{target / lost[0]}: is there already, and was not fetched; move it away, or name another folder"
        )
    return own


@contextmanager
def writing(partial: Path) -> Iterator[None]:
    """Raises RunError where files here cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{partial.parent}: cannot be written ({error.strerror or error}); make it writable or name another folder"
        ) from error


def place_of_run(name: str, address: str) -> tuple[str, str | None]:
    """The folder of a submitted run, and the machine that wrote it."""
    job = Jobs(address).latest(name)
    if job is None:
        raise RunError(
            f"{name}: no run of this name was submitted to {address}; check both, or name its folder there: --from PATH"
        )
    if not job.ended:
        raise RunError(
            f"{name}: is still at work; `evolve follow {name} --address {address}` shows when it ends, `evolve stop` "
            "ends it"
        )
    return job.output, job.node


def client_address(address: str) -> str:
    """Ray's client server on the host of the job server; other addresses as they are."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return address
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"ray://{host}:{CLIENT_PORT}"


def listed(call: Call, folder: str) -> list[tuple[str, int]]:
    """The files there, by safe paths. Raises RunError for a folder that is not there, and for a path that leaves it."""
    files = answer(call(sending.listing, folder))
    if files is None:
        raise RunError(f"{folder}: is not there on the cluster's head; give the run's folder with --from PATH")
    for path, size in files:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or {"..", "."} & set(parts) or set(path) & set("\\:\0") or size < 0:
            raise RunError(f"{folder}: the cluster names a file {path!r}, which does not belong into a run's folder")
    return list(files)


def is_wanted(path: str, checkpoint: bool, whole: bool) -> bool:
    first = PurePosixPath(path).parts[0]
    hidden = any(part.startswith(".") for part in PurePosixPath(path).parts) or path.endswith(UNFINISHED)
    return not hidden and (whole or first not in INNER) and (checkpoint or first != "checkpoint")


def arrived(partial: Path, target: Path, path: str) -> int:
    """Bytes of a file that need no more room. What was only linked in stands beside the new one until all have come."""
    place, older = partial / path, target / path
    linked = place.is_file() and older.is_file() and place.samefile(older)
    return sum(each.stat().st_size for each in (coming_of(place), *([place] * (not linked))) if each.is_file())


def is_same(call: Call, folder: str, path: str, before: Fetched) -> bool:
    """Whether the file there is the one that was fetched `before`."""
    return path in before.files and answer(call(sending.digest, folder, path)) == before.files[path]


def check_disk(partial: Path, missing: Mapping[str, int], stays: Callable[[str], bool]) -> None:
    """Raises RunError where the files would not fit, by the bytes `missing` of each. Which of them `stays` as it is
    is asked only where room is scarce: it takes the reading of the whole file."""
    needed, free = sum(missing.values()) + SPARE, shutil.disk_usage(partial).free
    if needed > free:
        needed -= sum(size for path, size in missing.items() if (partial / path).is_file() and stays(path))
    if needed > free:
        raise RunError(
            f"{partial.parent}: {amount(free)} are free, the results need {amount(needed)}; free space, name another "
            "folder, or leave the checkpoint there (--no-checkpoint)"
        )


def bring(call: Call, folder: str, path: str, size: int, partial: Path) -> str:
    """One file to its place in `partial`; returns its digest. Raises RunError where it does not come as it is there."""
    place = partial / path
    expected = str(answer(call(sending.digest, folder, path)))
    if place.is_file() and digest_of(place) == expected:
        return expected
    coming = coming_of(place)
    for _ in range(2):  # pieces of an earlier attempt may be of an earlier file
        receive(call, folder, path, size, coming)
        if digest_of(coming) == expected:
            os.replace(coming, place)
            print(f"{path}  {amount(size)}", flush=True)
            return expected
        coming.unlink()
    raise RunError(f"{path}: came otherwise than it is on the cluster; is the run being written? fetch it again later")


def coming_of(place: Path) -> Path:
    return place.with_name(f".{place.name}{UNFINISHED}")


def receive(call: Call, folder: str, path: str, size: int, coming: Path) -> None:
    """Append what is missing of the file."""
    try:
        coming.parent.mkdir(parents=True, exist_ok=True)
        with coming.open("ab") as file:
            if file.tell() > size:
                file.truncate(file.seek(0))
            for data in pieces(call, folder, path, file.tell(), size):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except ConnectionError as error:
        raise lost(error) from error
    except OSError as error:
        raise RunError(
            f"{coming}: cannot be written ({error.strerror or error}); free space, then give the same command again"
        ) from error


def pieces(call: Call, folder: str, path: str, begin: int, size: int) -> Iterator[bytes]:
    """The file's bytes from `begin`, with some pieces asked for ahead."""
    waiting: deque[tuple[int, Future[Any]]] = deque()
    while begin < size or waiting:
        while begin < size and len(waiting) < AHEAD:
            length = min(PIECE, size - begin)
            waiting.append((length, call(sending.piece, folder, path, begin, length)))
            begin += length
        length, future = waiting.popleft()
        data = answer(future)
        if not isinstance(data, bytes) or len(data) != length:
            raise RunError(f"{path}: changed on the cluster while it was read; fetch it again when the run has ended")
        yield data


def answer(future: Future[Any]) -> Any:
    """What the call gives. Raises RunError where the connection is lost."""
    try:
        return future.result(timeout=PATIENCE)
    except (OSError, TimeoutError, FutureTimeout) as error:
        raise lost(error) from error


def lost(error: BaseException) -> RunError:
    return RunError(
        f"--client: the cluster answers no longer ({last_line(error)}); the same command goes on from there"
    )


def amount(size: float) -> str:
    power, unit = next(((power, unit) for power, unit in ((30, "GiB"), (20, "MiB")) if size >= 2**power), (10, "KiB"))
    return f"{size / 2**power:.1f} {unit}"
