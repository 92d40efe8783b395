"""What keeps a run's folder and ledger to one configuration and one driver."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from evolve.atomic import sweep
from evolve.config.search_yaml import BUDGET_KEYS, MEMORY_KEYS, SearchConfig, load_config
from evolve.errors import RunError
from evolve.preparation.belonging import CONFIGURATION, check_belongs, mark, storage_url
from evolve.storage.lease import Lease
from evolve.storage.lease_slots import Holder
from evolve.storage.ledger import Ledger

LOCK = ".lock"
LATER = {"search.asynchronous": False}  # keys that earlier versions did not have, with what these did


@contextmanager
def sole_driver(config: SearchConfig, say: Callable[[str], None] = lambda _: None) -> Iterator[tuple[Ledger, Lease]]:
    """The run's folder, ledger and lease, all held by this process alone. Raises RunError.

    `say` is told where the storage is waited for.
    """
    folder = config.folder
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]  # it raises nothing
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # the lock of an earlier start may stand in a read-only folder
            stack.enter_context(FileLock(folder / LOCK, timeout=0))
        except Timeout:
            raise RunError(
                f"{folder}: another run is at work in this folder; wait for it, stop it, or choose another name"
            ) from None
        except OSError as error:
            raise RunError(
                f"run.output ({folder}): cannot be written ({error.strerror or error}); "
                "make it writable or name another folder"
            ) from None
        stack.callback(remove_empty, folder, missing)
        check_belongs(config, say)
        ledger = Ledger(storage_url(config), config.name, say=say)
        lease = stack.enter_context(Lease(storage_url(config), config.name))
        stack.callback(ledger.close)  # before the lease is given back: a failed transaction keeps its lock
        sweep(folder)
        yield ledger, lease


def remove_empty(folder: Path, made: Sequence[Path]) -> None:
    """Remove the folders that were `made` down to `folder`, the last one first, where they hold nothing but its lock,
    which this process holds."""
    with suppress(OSError):
        if made and [each.name for each in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
        for each in made:
            each.rmdir()


def holder_of(config: SearchConfig) -> Holder | None:
    """Who drives the run now, for all that its lease tells."""
    return Lease(storage_url(config), config.name).living()


def guard(ledger: Ledger, config: SearchConfig, identity: dict[str, str]) -> bool:
    """Refuse a ledger that another configuration wrote. Returns whether the run is a new one.

    `identity` are digests that the text of the configuration does not show: of the models' contents and of the
    documents as asked.
    """
    # What may change anyway is not recorded: neither budgets nor where the run stands, with its passwords.
    asked = {key: value for key, value in flat(config.model_dump(mode="json")).items() if not may_change(key)}
    current = {**asked, **identity}
    recorded = ledger.attribute(CONFIGURATION)
    if recorded is None:
        ledger.set_attribute(CONFIGURATION, current)
        mark(ledger, config)
        return True
    recorded = {**LATER, **recorded}
    differing = [
        f"{key} (was {recorded.get(key)!r}, is {current.get(key)!r})"
        for key in dict.fromkeys([*recorded, *current])
        if recorded.get(key) != current.get(key) and not may_change(key)  # also what could not change once
    ]
    if differing:
        raise RunError(
            f"{config.name}: this run was begun with another configuration: {'; '.join(differing)}; "
            "put these back, or choose another name for a new run"
        )
    mark(ledger, config)
    return False


def may_change(key: str) -> bool:
    """Whether a key of search.yaml may differ between two starts of one run."""
    return key.startswith("run.") or key in (*BUDGET_KEYS, *MEMORY_KEYS)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys; lists stay whole."""
    result: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def resolved(config: SearchConfig, population: int) -> SearchConfig:
    """The configuration with what was chosen for the user written down."""
    return config.model_copy(update={"search": config.search.model_copy(update={"population": population})})


def load_run(folder: Path) -> SearchConfig:
    """The resolved configuration of the run in `folder`, wherever it is seen from. Raises RunError."""
    if folder.suffix in (".yaml", ".yml") and not os.path.exists(folder):
        raise RunError(f"{folder}: there is no such file; give that of a search, or a folder such as results/demo")
    if not os.path.isfile(folder / "search.yaml"):
        lacking = "it has no search.yaml" if os.path.isdir(folder) else "there is no such folder"
        raise RunError(f"{folder}: no run was begun here ({lacking}); give a folder such as results/demo")
    return load_config(folder / "search.yaml").placed(folder if folder.name else folder.resolve())  # "." has no name
