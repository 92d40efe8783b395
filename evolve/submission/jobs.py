"""Ray's job server, over HTTP: the only module that imports `ray.job_submission`.

It also opens the connection through which results come home (`reading`). Every start of a run is a job of its own,
`evolve-<number>-<name>`; its metadata say which run it is, never anything secret: the dashboard shows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobSubmissionClient
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evolve.errors import RunError
from evolve.submission import sending
from evolve.workers.reaching import first_line, last_line, probe, reach, refused, unreachable

WAIT = 30.0  # seconds for an answer of the job server
UPLOAD = 600.0  # seconds in which a package must have arrived
STOPPING = 90  # seconds from asking a run to stop until it is killed; it leaves some 20 to what it has begun
ATTEMPTS = 5  # to connect for reading
REFUSED: Any = getattr(ray.exceptions, "AuthenticationError", ())  # older versions of Ray have no tokens
JOB = re.compile(r"evolve-(\d+)-(.+)")


@dataclass(frozen=True)
class Job:
    """One start of a run. `status` as Ray names it; `code`: what its process ended with; `node`: where it runs."""

    id: str
    number: int
    run: str
    status: str
    code: int | None
    message: str
    node: str | None
    digest: str
    output: str

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Forgotten(RunError):
    """The cluster answers, and does not know this job."""


class Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client waits for ever on a server that accepts and says nothing."""

    def _do_request(self, method: str, endpoint: str, **arguments: Any) -> Any:
        arguments.setdefault("timeout", UPLOAD if method == "PUT" else WAIT)
        return super()._do_request(method, endpoint, **arguments)


class Jobs:
    """The job server at `address`, such as http://head:8265. Every method raises RunError where it does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address
        reach(address)
        hush()
        with self._errors():
            self._client = Client(address)

    def latest(self, run: str) -> Job | None:
        """The last start of a run that the cluster knows of."""
        with self._errors():
            found = [each for each in self._client.list_jobs() if belongs(each.submission_id, run)]
        return max(map(job_of, found), key=lambda job: job.number, default=None)

    def submit(
        self, run: str, number: int, package: Path, entry: str, metadata: Mapping[str, str], environment: dict[str, Any]
    ) -> str | None:
        """The new job's id; None where another client has just taken this number."""
        submission = f"evolve-{number}-{run}"
        runtime = {"working_dir": str(package), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING)}, **environment}
        with self._errors():
            try:
                self._client.submit_job(
                    entrypoint=entry, submission_id=submission, runtime_env=runtime, metadata=dict(metadata)
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return None
                raise
        return submission

    def job(self, submission: str) -> Job:
        """Raises Forgotten for a job that the cluster does not know."""
        with self._errors():
            try:
                return job_of(self._client.get_job_info(submission))
            except RuntimeError as error:
                if "does not exist" in str(error):
                    raise Forgotten(
                        f"--address ({self.address}): the cluster knows the job {submission} no longer, perhaps it was "
                        "started anew; `evolve submit` goes on from what the run has recorded"
                    ) from error
                raise

    def stop(self, submission: str) -> None:
        with self._errors():
            self._client.stop_job(submission)

    def log(self, submission: str) -> AsyncIterator[str]:
        """The log from its beginning, as it grows. Raises what the connection raises."""
        pieces: AsyncIterator[str] = self._client.tail_job_logs(submission)
        return pieces

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except REFUSED as error:
            raise refused(self.address) from error
        except (OSError, asyncio.TimeoutError) as error:
            raise unreachable(self.address, reason(error)) from error
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"--address ({self.address}): {first_line(error)}; look at the cluster's dashboard"
            ) from error


def connect(address: str) -> None:
    """A busy head may not have made its process for us within the half minute that it gives itself."""
    probe(address)
    for attempt in range(ATTEMPTS):
        try:
            ray.init(address, namespace="merge-evolve", log_to_driver=False, logging_level=logging.ERROR)
            return
        except ConnectionAbortedError:
            ray.shutdown()
            if attempt + 1 == ATTEMPTS:
                raise


def hush() -> None:
    """Ray's modules set the level of their loggers each by itself."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "ray":
            logging.getLogger(name).setLevel(logging.ERROR)


def belongs(submission: str | None, run: str) -> bool:
    match = JOB.fullmatch(submission or "")
    return match is not None and match[2] == run


def job_of(details: Any) -> Job:
    match = JOB.fullmatch(details.submission_id)
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        number=int(match[1]) if match else 0,
        run=match[2] if match else "",
        status=str(details.status.value),
        code=details.driver_exit_code,
        message=details.message or "",
        node=details.driver_node_id,
        digest=metadata.get("evolve-digest", ""),
        output=metadata.get("evolve-output", ""),
    )


def reason(error: BaseException) -> str:
    """The innermost cause, which says most."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return first_line(error)


Call = Callable[..., Any]


@contextlib.contextmanager
def reading(address: str, node: str | None) -> Iterator[Call]:
    """Calls a function of `sending` on a machine of the cluster: `call(function, *arguments)` gives a future.

    `address` as Ray names it, such as ray://head:10001; `node`: the machine, None: the head. The functions travel
    with the call, so nothing need be installed there. Raises RunError.
    """
    for category in (FutureWarning, UserWarning):  # what they warn of is what the error says
        warnings.filterwarnings("ignore", category=category, module="ray")
    ray.cloudpickle.register_pickle_by_value(sending)
    hush()
    try:
        connect(address)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"--client ({address}): no Ray client server answers ({last_line(error)}); the head opens port 10001 for "
            "it, which must be reachable from here (`ssh -L 10001:localhost:10001 head`), and Python and Ray must be "
            "of the cluster's versions"
        ) from error
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 3, "name": "evolve fetch"}
    if node is None:
        node = next((each["NodeID"] for each in ray.nodes() if "node:__internal_head__" in each["Resources"]), None)
    if node is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)

    def call(function: Call, *arguments: Any) -> Future[Any]:
        try:
            future: Future[Any] = ray.remote(function).options(**options).remote(*arguments).future()
        except Exception as error:  # Ray's, gRPC's, or Python's: the call could not be made
            raise ConnectionError(last_line(error)) from error
        return future

    try:
        yield call
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise RunError(f"--client ({address}): {last_line(error)}; the same command goes on from there") from error
    finally:
        ray.shutdown()
