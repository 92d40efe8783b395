"""`evolve fetch`: a run's results from a cluster, in pieces, each file checked by its digest.

Files gather in a hidden folder beside the asked one, which takes their name when all are there and right. An
interrupted fetch goes on at the first missing piece. What the cluster says of paths and sizes is checked: nothing is
written outside of that folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # another class before Python 3.11
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from evolve.atomic import UNFINISHED
from evolve.errors import RunError
from evolve.submission import sending
from evolve.submission.jobs import Call, Jobs, reading
from evolve.workers.reaching import last_line

PIECE = 16 * 2**20  # bytes asked for at once
AHEAD = 4  # pieces under way
PATIENCE = 600.0  # seconds for one answer
SPARE = 64 * 2**20  # bytes of the disk that stay free
INNER = ("requests", "items")  # folders that only the search itself reads
CLIENT_PORT = 10001  # of Ray's client server, unless the head was started with another one


def fetch(
    name: str, address: str, out: Path | None, client: str | None, folder: str | None, checkpoint: bool, whole: bool
) -> None:
    """Bring a run's folder here, to `out` or results/<name>. Raises RunError."""
    target = out or Path("results", name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target}: is there already; name another folder, or move this one away")
    node = None
    if folder is None:
        folder, node = place_of_run(name, address)
    with reading(client or client_address(address), node) as call:
        files = listed(call, folder)
        chosen = [each for each in files if is_wanted(each[0], checkpoint, whole)]
        if not chosen:
            raise RunError(f"{folder}: holds no results yet on the cluster; follow the run to its end first")
        partial = target.parent / f".{target.name}.fetching"
        check_disk(partial, chosen)
        for path, size in chosen:
            bring(call, folder, path, size, partial)
    tidy(partial, [path for path, _ in chosen])
    os.replace(partial, target)
    print(f"{len(chosen)} files, {amount(sum(size for _, size in chosen))}, every digest verified: {target}")


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


def check_disk(partial: Path, chosen: list[tuple[str, int]]) -> None:
    """Raises RunError where the files would not fit, or their folder cannot be made."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{partial.parent}: cannot be written ({error.strerror}); name another folder") from error
    here = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    needed, free = sum(size for _, size in chosen) - here + SPARE, shutil.disk_usage(partial).free
    if needed > free:
        raise RunError(
            f"{partial.parent}: {amount(free)} are free, the results need {amount(needed)}; free space, name another "
            "folder, or leave the checkpoint there (--no-checkpoint)"
        )


def bring(call: Call, folder: str, path: str, size: int, partial: Path) -> None:
    """One file to its place in `partial`. Raises RunError where it does not come as it is there."""
    place = partial / path
    expected = answer(call(sending.digest, folder, path))
    if place.is_file() and digest_of(place) == expected:
        return
    coming = place.with_name(f".{place.name}{UNFINISHED}")
    for _ in range(2):  # pieces of an earlier attempt may be of an earlier file
        receive(call, folder, path, size, coming)
        if digest_of(coming) == expected:
            os.replace(coming, place)
            print(f"{path}  {amount(size)}", flush=True)
            return
        coming.unlink()
    raise RunError(f"{path}: came otherwise than it is on the cluster; is the run being written? fetch it again later")


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


def digest_of(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hashed.update(block)
    return hashed.hexdigest()


def tidy(partial: Path, paths: list[str]) -> None:
    """Take away what an earlier attempt left of files that are there no longer."""
    kept = {partial / path for path in paths}
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_file() and path not in kept:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def amount(size: float) -> str:
    power, unit = next(((power, unit) for power, unit in ((30, "GiB"), (20, "MiB")) if size >= 2**power), (10, "KiB"))
    return f"{size / 2**power:.1f} {unit}"
