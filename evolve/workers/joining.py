"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator

import ray

from evolve.errors import RunError
from evolve.scratch import scratch
from evolve.workers.reaching import first_line
from evolve.workers.sizing import Workers, usable_gpus

PROBE = 10.0  # seconds in which a cluster's address must answer


def connect(address: str, workers: Workers | None, stack: contextlib.ExitStack) -> None:
    """Join the cluster at `address`, or start one on this machine; closing `stack` leaves or ends it."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    # Ray's own default lets workers give way to everything else on a machine: beside other work they would starve.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address != "local":
        stack.callback(ray.shutdown)
        try:
            probe(address)
            with own_signals(), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # what it warns of is what the error says
                ray.init(address=address, namespace="merge-evolve", **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(
                f"run.address ({address}): no Ray cluster answers ({first_line(error)}); "
                "start one with `ray start --head`, or use `address: local`"
            ) from error
        return
    if workers is None:
        raise RuntimeError("workers on this machine are counted before Ray starts")
    # A folder of its own: a stale cluster's files elsewhere cannot be joined by mistake. Sockets need short paths.
    temporary = stack.enter_context(scratch())
    stack.callback(ray.shutdown)
    try:
        with own_signals():
            ray.init(
                address="local",
                num_cpus=workers.count * workers.threads,
                num_gpus=usable_gpus() if workers.gpus else 0,
                object_store_memory=100 * 2**20,  # weights never pass through it: workers map the files themselves
                include_dashboard=False,
                _temp_dir=str(temporary),
                _memory=int(workers.count * workers.memory * 1.01) + 1,
                **quiet,
            )
    except Exception as error:  # Ray raises no class of its own
        raise RunError(
            f"run.workers: Ray did not start on this machine ({first_line(error)}); where other work keeps it busy, "
            "try again later, or use `workers: 1`"
        ) from error


def probe(address: str) -> None:
    """Raises OSError where nothing listens at host:port; Ray itself asks for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE).close()


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Keeps our way to end: Ray's own handlers of SIGTERM exit with 15 or abort with a trace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None  # Ray's handler, while it was in force
    finally:
        signal.signal(signal.SIGTERM, before)
