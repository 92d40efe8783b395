"""Whether a cluster's job server answers, and whether it wants a token: known before Ray is imported.

Ray decides while it is imported whether it shows a token, by the variable RAY_AUTH_MODE. Where nobody set it, the
server's answer does.
"""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from evolve.errors import RunError

PATIENCE = 15.0  # seconds for the first answer
MODE = "RAY_AUTH_MODE"
OVERRULING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # would win over the address that was given


def reach(address: str) -> None:
    """Raises RunError where no job server answers at `address`, such as http://head:8265."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise RunError(
            f"--address ({address.rpartition('@')[2]}): is not the address of a job server; give "
            "that of the cluster's dashboard, such as http://head:8265"
        )
    for name in OVERRULING:
        os.environ.pop(name, None)
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise unreachable(address, f"{error.code} {error.reason}") from error
        os.environ.setdefault(MODE, "token")
    except (OSError, ValueError) as error:
        raise unreachable(address, getattr(error, "reason", error)) from error


def probe(address: str) -> None:
    """Raises OSError where nothing listens at ray://host:port; Ray itself asks for half a minute."""
    parts = urlsplit(address)
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE).close()


def unreachable(address: str, why: object) -> RunError:
    return RunError(
        f"--address ({address}): no Ray cluster answers ({why}); give the address of its dashboard (port 8265), start "
        "it with `ray start --head`, or open a tunnel to it"
    )


def refused(address: str) -> RunError:
    return RunError(
        f"--address ({address}): the cluster wants its token, and this one was refused or is missing; copy "
        "~/.ray/auth_token of its head here, or set RAY_AUTH_TOKEN"
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def last_line(error: BaseException) -> str:
    """Of an error that came from another process, whose text ends with what it was."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
