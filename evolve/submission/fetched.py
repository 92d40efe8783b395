"""A folder that `evolve fetch` made: what was brought there, whether its run has ended, how it is brought up to date.

A later fetch gathers beside it what has changed, by links to what has not, and takes its place in two steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.digest import digest_of
from evolve.atomic import write_json
from evolve.errors import EvolveError, RunError
from evolve.preparation.belonging import OWN, storage_url
from evolve.preparation.guard import load_run
from evolve.storage.ledger import Ledger
from evolve.watching.run_state import why_ended

MARK = ".fetched.json"
REPORT = "report.md"  # `evolve report` writes it anew, here as well
RESULTS = ("best.yaml", REPORT)  # what a run has when it has ended, with its checkpoint


@dataclass(frozen=True)
class Fetched:
    """The run's name, its `folder` there, and the sha256 of the files that were brought, by their paths."""

    run: str
    folder: str
    files: dict[str, str]


def earlier(target: Path, name: str) -> Fetched | None:
    """What an earlier fetch of the run brought to `target`; None where nothing is there. Raises RunError for anything
    else that is there, and for files that were changed since: they would be lost."""
    mend(target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        found = Fetched(**json.loads((target / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found = None
    if found is None or found.run != name or not isinstance(found.files, dict):
        raise RunError(f"{target}: is there already; name another folder, or move this one away")
    for path, digest in found.files.items():
        if path != REPORT and (target / path).is_file() and digest_of(target / path) != digest:
            raise RunError(
                f"{target / path}: was changed here since it was fetched; remove that file, which then comes again, or "
                "name another folder"
            )
    return found


def begin_with(target: Path, before: Fetched, partial: Path) -> None:
    """Links in `partial` to all files of `target`: what was brought there, and what its owner has put beside it."""
    for path in files_of(target):
        place = partial / path
        if path in before.files and place.exists():
            continue  # of an interrupted attempt, perhaps newer
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(target / path, place, follow_symlinks=False)
        except OSError:  # not every file system has links
            shutil.copy2(target / path, place, follow_symlinks=False)


def tidy(partial: Path, kept: Collection[str]) -> None:
    """Take away all but the files `kept`, and the folders that are empty then."""
    for path in list(files_of(partial)):
        if path not in kept:
            (partial / path).unlink()
    for folder in sorted(
        (path for path in partial.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True
    ):
        with contextlib.suppress(OSError):
            folder.rmdir()


def files_of(folder: Path) -> Iterator[str]:
    """The paths of files and links, from the folder on."""
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            yield path.relative_to(folder).as_posix()


def put(partial: Path, target: Path, fetched: Fetched) -> None:
    """Let what was gathered take the place of `target`."""
    write_json(partial / MARK, asdict(fetched))
    if target.exists() and any(target.iterdir()):
        os.rename(target, aside(target))
    os.replace(partial, target)
    mend(target)


def aside(target: Path) -> Path:
    return target.parent / f".{target.name}.before"


def mend(target: Path) -> None:
    """Finish what an interrupted `put` left."""
    old = aside(target)
    if not (old / MARK).is_file():
        return
    if target.exists():
        shutil.rmtree(old)
    else:
        os.rename(old, target)


def unfinished(folder: Path, checkpoint: bool) -> str:
    """What the run in `folder` still lacks, "" where it has ended; with `checkpoint`, that counts as well."""
    lacking = [name for name in RESULTS if not (folder / name).is_file()]
    lacking += ["checkpoint"] if checkpoint and not (folder / "checkpoint").is_dir() else []
    counted, ended = progress(folder)
    if ended and not lacking:
        return ""
    told = [counted] * bool(counted) + ([f"without {', '.join(lacking)}"] if lacking else ["its results are older"])
    return f"the run has not ended: {', '.join(told)}"


def progress(folder: Path) -> tuple[str, bool]:
    """How far the search is, by the ledger that came along, and whether the last start has ended; "" and that it has,
    where none came or it was written to at that moment."""
    if not (folder / OWN).is_file():
        return "", True
    try:
        config = load_run(folder)
        if config.run.storage is not None:  # which may not be reached from here
            return "", True
        ledger = Ledger(storage_url(config), config.name, must_exist=True)
        try:
            trials, events = len(ledger.trials()), ledger.events()
        finally:
            ledger.close()
    except EvolveError:
        return "", True
    return f"{trials} of {config.search.trials} candidates", bool(why_ended(events))
