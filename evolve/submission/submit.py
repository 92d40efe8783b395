"""`evolve submit`, `follow` and `stop`: a run on a cluster that goes on without the machine it was sent from."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from evolve.config.search_yaml import SearchConfig, load_config
from evolve.errors import ConfigError, RunError
from evolve.submission.following import follow
from evolve.submission.jobs import Job, Jobs
from evolve.submission.packing import FIRST_STEP, Package, package_of, summary
from evolve.workers.interruption import GRACE

WATCH = 1.0  # seconds between two looks at a run that was asked to stop
ANY_PYTHON = '"$(command -v python3 || command -v python)"'


@dataclass(frozen=True)
class Environment:
    """Where the run finds `evolve` on the cluster."""

    python: str = ANY_PYTHON  # runs the first step
    kind: str = "cluster"  # as `evolve.submission.job_start` takes it
    runtime: dict[str, Any] = field(default_factory=dict)  # of Ray's job
    files: dict[str, bytes] = field(default_factory=dict)  # to send along

    @property
    def entry(self) -> str:
        return f"{self.python} {FIRST_STEP} {metadata.version('merge-evolve')} {shlex.quote(self.kind)}"


def submit(
    search: Path, address: str, name: str | None, environment: str | None, pip: str | None, detached: bool
) -> None:
    """Send a run to the cluster, or find it there at work, and show its log. Raises what a user can put right; leaves
    with the run's own exit code."""
    config = named(load_config(search), name)
    package = package_of(config)
    jobs = Jobs(address)
    job = jobs.latest(config.name)
    if job is not None and not job.ended:
        started = attached(job, package, jobs)
    else:
        for warning in package.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        started = begun(jobs, package, environment_of(environment, pip), 1 if job is None else job.number + 1)
    print(f"results: {summary(package)['evolve-output']} on the cluster\n{how(config.name, address)}", flush=True)
    if not detached:
        watch(jobs, config.name, started)


def named(config: SearchConfig, name: str | None) -> SearchConfig:
    """The same search under another name. Raises ConfigError for what is no name."""
    if name is None:
        return config
    try:
        return config.model_copy(update={"name": SearchConfig.plain(name)})
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from error


def follow_run(name: str, address: str) -> None:
    """Show the log of a run from its beginning, until it ends. Raises RunError; leaves with the run's exit code."""
    jobs = Jobs(address)
    watch(jobs, name, known(jobs, name).id)


def stop_run(name: str, address: str) -> None:
    """Ask a run to stop and wait until it has. Raises RunError where none is at work."""
    jobs = Jobs(address)
    job = known(jobs, name)
    if job.ended:
        raise RunError(f"{name}: is not at work at {address}: it has {job.status.lower()}; nothing was to be stopped")
    jobs.stop(job.id)
    print(f"{name}: asked to stop; it finishes what it has begun, for {GRACE} seconds at most", flush=True)
    while not jobs.job(job.id).ended:
        time.sleep(WATCH)
    print(f"{name}: stopped; `evolve submit` goes on from there")


def begun(jobs: Jobs, package: Package, environment: Environment, number: int) -> str:
    """The id of the new job. Of two clients that start a run at once, one attaches to the other's."""
    name = package.config.name
    with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
        archive = Path(folder, "package.zip")
        package.write(archive, environment.files)
        metadata_of_job = {key: str(value) for key, value in summary(package).items()}
        started = jobs.submit(name, number, archive, environment.entry, metadata_of_job, environment.runtime)
    if started is None:
        return attached(known(jobs, name), package, jobs)
    print(f"submitted {name} to {jobs.address} (job {started})")
    return started


def attached(job: Job, package: Package, jobs: Jobs) -> str:
    if job.digest != package.digest:
        raise RunError(
            f"{job.run}: another search of this name is at work at {jobs.address}; stop it with "
            f"`evolve stop {job.run}`, or give this one another name"
        )
    print(f"{job.run} is at work at {jobs.address} already (job {job.id}): nothing new was started")
    return job.id


def known(jobs: Jobs, name: str) -> Job:
    job = jobs.latest(name)
    if job is None:
        raise RunError(f"{name}: no run of this name was submitted to {jobs.address}; check the name and the address")
    return job


def how(name: str, address: str) -> str:
    commands = {"follow": "show its log", "stop": "end it", "fetch": "bring its results here"}
    width = max(map(len, commands))
    return "\n".join(
        f"  evolve {word:{width}} {name} --address {address}   # {what}" for word, what in commands.items()
    )


def watch(jobs: Jobs, name: str, submission: str) -> None:
    """Show the log until the end, and leave with the run's own exit code; an interruption leaves the run alone."""
    try:
        job = follow(jobs, submission)
    except KeyboardInterrupt:
        print(f"\nleft; {name} goes on there:\n{how(name, jobs.address)}", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    code = code_of(job)
    if code == 130:
        print(f"{name}: was stopped; `evolve submit` goes on from there", file=sys.stderr)
    elif code == 0:
        print(f"`evolve fetch {name} --address {jobs.address}` brings its results here")
    if code:
        raise SystemExit(code)


def code_of(job: Job) -> int:
    """What the client leaves with. Raises RunError for a run that ended without a word of its own."""
    if job.status == "STOPPED":
        return 130
    if job.status == "SUCCEEDED":
        return 0
    if job.code in (1, 2, 130):
        return job.code
    told = "\n".join(job.message.strip().splitlines()[-20:]) or "no reason is given"
    raise RunError(
        f"{job.run}: was ended from outside, or never began: {told}\nmend that on the cluster; `evolve submit` goes on "
        "from what is recorded"
    )


def environment_of(path: str | None, pip: str | None) -> Environment:
    """Raises ConfigError for two environments, and for what is none."""
    if path is not None and pip is not None:
        raise ConfigError("--pip: --env names an environment that is there already; give one of the two")
    if path is not None:
        python = path if re.match(r"python[\d.]*$", Path(path).name) else f"{path.rstrip('/')}/bin/python"
        if not python.startswith("/"):
            raise ConfigError(f"--env ({path}): is no absolute path; give that of an environment on the cluster")
        return Environment(kind=python)
    if pip is None:
        return Environment()
    if re.search(r"://[^/\s]*@", pip):
        raise ConfigError("--pip: its URL holds a user or password, which the cluster would show; leave them out")
    files = wheel_of(Path(pip)) if Path(pip).exists() else {}
    wanted = [f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{place}" for place in files] or [pip]
    return Environment("python", "job", {"pip": wanted}, files)


def wheel_of(source: Path) -> dict[str, bytes]:
    """A wheel, built first where `source` is a folder. Its place tells its contents: Ray keeps environments by it."""
    with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
        if source.is_dir():
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(source)]
            done = subprocess.run(build, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise ConfigError(f"--pip ({source}): no wheel could be built of it ({last}); give a wheel")
            source = next(Path(folder).glob("*.whl"))
        if source.suffix != ".whl":
            raise ConfigError(f"--pip ({source}): is no wheel; give one, a source folder or a requirement")
        data = source.read_bytes()
    return {f"environment/{hashlib.sha256(data).hexdigest()[:16]}/{source.name}": data}
