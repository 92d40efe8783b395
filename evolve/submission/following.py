"""The log of a submitted run as it grows, through cut connections; the run does not depend on who watches it."""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp

from evolve.errors import RunError
from evolve.submission.jobs import Forgotten, Job, Jobs

SILENCE = 60.0  # seconds without a line, after which the connection is made anew: a dead one says nothing either
PAUSE = 2.0  # seconds before a connection is tried again
PATIENCE = 900.0  # seconds of attempts
BROKEN = (aiohttp.ClientError, asyncio.TimeoutError, OSError, RuntimeError, RunError)
# Lines of Ray's own, and what is shown for them.
OF_RAY = {"Runtime env is setting up": "the cluster makes the environment ready", "Running entrypoint for job": None}


class Log:
    """Prints a log that is read from its beginning more than once: each line of it once, errors to stderr."""

    def __init__(self) -> None:
        self._shown = 0  # characters
        self._line = ""

    def take(self, text: str, begin: int) -> None:
        """`text` stands `begin` characters from the log's beginning."""
        new = text[max(0, self._shown - begin) :]
        self._shown = max(self._shown, begin + len(text))
        *lines, self._line = (self._line + new).split("\n")
        for line in lines:
            tell(line)

    def end(self) -> None:
        if self._line:
            tell(self._line)
        self._line = ""


def tell(line: str) -> None:
    shown = next((ours for theirs, ours in OF_RAY.items() if theirs in line), line)
    if shown is not None:
        print(shown, file=sys.stderr if line.startswith("error: ") else sys.stdout, flush=True)


def follow(jobs: Jobs, submission: str) -> Job:
    """Print the log until the run has ended; returns how it did. Raises RunError where the cluster is gone for long."""
    log = Log()
    since: float | None = None
    while True:
        try:
            asyncio.run(read(jobs, submission, log))
            job = jobs.job(submission)
        except Forgotten:
            raise
        except BROKEN as error:
            check_known(jobs, submission)
            if since is None:
                since = time.monotonic()
                print(f"{jobs.address} does not answer; trying again (the run goes on without us)", file=sys.stderr)
            if time.monotonic() - since > PATIENCE:
                raise (
                    error
                    if isinstance(error, RunError)
                    else RunError(
                        f"--address ({jobs.address}): the connection is lost ({error}); follow the run again later"
                    )
                ) from error
            time.sleep(PAUSE)
            continue
        since = None
        if job.ended:
            log.end()
            return job
        time.sleep(PAUSE)  # whoever stands between closes every connection at once, perhaps


def check_known(jobs: Jobs, submission: str) -> None:
    """Raises Forgotten where the cluster answers, but not for this job."""
    try:
        jobs.job(submission)
    except Forgotten:
        raise
    except RunError:
        return


async def read(jobs: Jobs, submission: str, log: Log) -> None:
    """Until the log ends, or nothing has come for a while."""
    pieces = jobs.log(submission)
    begin = 0
    while True:
        try:
            text = await asyncio.wait_for(anext(pieces), SILENCE)
        except (StopAsyncIteration, asyncio.TimeoutError):
            return
        log.take(text, begin)
        begin += len(text)
