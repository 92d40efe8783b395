"""Names and addresses in search.yaml that can be told wrong while it is read, before anything is prepared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from engine.lookup import nearest

FORMS = "auto, host:6379 or ray://host:10001"


def known_address(value: str) -> str:
    """The address of a Ray cluster as a driver joins it. Raises ValueError for what has not one of its forms."""
    if value in ("local", "auto") or re.fullmatch(r"(ray://)?(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}", value):
        return value
    before, _, after = value.rpartition("@")  # what stands before it, or in a query, may be a secret
    shown = "..." if "?" in before else after.partition("?")[0]
    if re.match(r"https?://", value):
        raise ValueError(
            f"{shown!r:.80} is the address of a job server, which `evolve submit --address` takes; here give {FORMS}"
        )
    raise ValueError(f"{shown!r:.80} is no address of a Ray cluster; give {FORMS}, or local for this machine")


def known_optimizer(value: str) -> str:
    from evolve.optimizers import OPTIMIZERS

    return known(value, OPTIMIZERS, "optimizer")


def known_trackers(values: tuple[str, ...]) -> tuple[str, ...]:
    from evolve.trackers import TRACKERS

    for value in values:
        known(value, TRACKERS, "tracker")
    return values


def known(name: str, table: Mapping[str, object], what: str) -> str:
    """The name. Raises ValueError where the table has no such row."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r:.80}{nearest(name, table)} (known: {', '.join(table)})")
    return name


Address = Annotated[str, AfterValidator(known_address)]
Optimizer = Annotated[str, AfterValidator(known_optimizer)]
Trackers = Annotated[tuple[str, ...], AfterValidator(known_trackers)]
