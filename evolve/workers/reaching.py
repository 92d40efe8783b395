"""Whether a cluster answers, its job server or itself, and whether it wants a token: known before Ray is imported.

Ray decides while it is imported whether it shows a token, by the variable RAY_AUTH_MODE. Where nobody set it, the
server's answer does.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from evolve.errors import RunError

PATIENCE = 15.0  # seconds for the first answer
MODE = "RAY_AUTH_MODE"
MODE_OF_TOKENS = "token"
OVERRULING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # would win over the address that was given


def reach(address: str) -> None:
    """Raises RunError where no job server answers at `address`, such as http://head:8265; errors of 500 and above are a
    proxy's whose cluster does not answer it."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise RunError(
            f"--address ({address.rpartition('@')[2]}): is not the address of a job server; give "
            "that of the cluster's dashboard, such as http://head:8265"
        )
    for name in OVERRULING:
        os.environ.pop(name, None)
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=PATIENCE) as answer:
            if b"ray" not in answer.read(10_000):
                raise no_job_server(address)
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise unreachable(address, starting(error.code)) from error
        if error.code not in (401, 403):
            raise no_job_server(address) from error
        os.environ.setdefault(MODE, "token")
    except http.client.HTTPException as error:
        raise no_job_server(address) from error
    except (OSError, ValueError) as error:
        raise unreachable(address, getattr(error, "reason", error)) from error


def show_token(address: str) -> None:
    """Have Ray show its token to the cluster at run.address, where that wants one. Raises RunError where this token is
    missing or refused; a cluster that does not answer is nothing that is said here."""
    if address == "local" or not unauthorized(address, None):
        return
    os.environ.setdefault(MODE, MODE_OF_TOKENS)
    token = own_token() if os.environ[MODE] == MODE_OF_TOKENS else None
    if token is None or unauthorized(address, token):
        raise refused(address, "run.address")


def unauthorized(address: str, token: str | None) -> bool:
    """Whether the cluster, or the client server of ray://, answers that it wants another token. Ray itself repeats
    that for half a minute, in lines of its own."""
    import grpc

    client, place = address.startswith("ray://"), address.removeprefix("ray://")
    question = "/ray.rpc.RayletDriver/ClusterInfo" if client else "/ray.rpc.NodeInfoGcsService/CheckAlive"
    shown = (("authorization", f"Bearer {token}"),) if token else ()
    options = [("grpc.enable_http_proxy", 0)]  # as Ray does it
    with grpc.insecure_channel(current_cluster() if place == "auto" else place, options=options) as channel:
        try:
            channel.unary_unary(question)(b"", timeout=PATIENCE, metadata=shown)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def current_cluster() -> str:
    """Where `auto` leads: the variable RAY_ADDRESS, or what `ray start` has noted on this machine."""
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    with contextlib.suppress(OSError):
        return os.environ.get("RAY_ADDRESS") or noted.read_text(encoding="utf-8").strip()
    return "127.0.0.1:6379"


def own_token() -> str | None:
    """The token that Ray would show, from the places and in the order that it looks at."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return place.read_text(encoding="utf-8").strip() or None
    return None


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


def starting(code: int) -> str:
    """What a proxy's answer says of the cluster behind it."""
    named = ", ".join(filter(None, (f"HTTP {code}", http.client.responses.get(code))))
    return f"{named}; its head may be starting still"


def no_job_server(address: str) -> RunError:
    return RunError(
        f"--address ({address}): what answers there is no job server of a Ray cluster; give the address of its "
        "dashboard, whose usual port is 8265"
    )


def refused(address: str, where: str = "--address") -> RunError:
    return RunError(
        f"{where} ({address}): the cluster wants its token, and this one was refused or is missing; copy "
        "~/.ray/auth_token of its head here, or set RAY_AUTH_TOKEN"
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def last_line(error: BaseException) -> str:
    """Of an error that came from another process, whose text ends with what it was."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
