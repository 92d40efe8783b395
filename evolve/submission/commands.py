"""The commands that reach a cluster from outside of it: `evolve submit`, `follow`, `stop` and `fetch`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from evolve.command import execute

LEFT = "\ninterrupted; a run that was sent goes on there: `evolve follow` shows its log, `evolve stop` ends it"
CUT = "\ninterrupted; what has come is kept: the same command goes on from there"

Search = Annotated[Path, typer.Argument(help="a search.yaml; see `evolve show config`")]
Name = Annotated[str, typer.Argument(help="the run's name, as in its search.yaml")]
Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="of the cluster's dashboard and job server, such as http://head:8265"
    ),
]
Called = Annotated[str | None, typer.Option(help="run it under this name, not that of search.yaml")]
Env = Annotated[str | None, typer.Option(help="an environment on every machine there, with evolve in it: /opt/merging")]
Pip = Annotated[
    str | None, typer.Option(help="install evolve there first: a requirement, a wheel, or its source folder")
]
Detach = Annotated[bool, typer.Option("--detach", "--no-wait", help="do not show the log")]
Out = Annotated[Path | None, typer.Argument(help="the folder here, new or fetched before; else results/NAME")]
ClientAddress = Annotated[
    str | None, typer.Option(help="of Ray's client server; else port 10001 of the same host: ray://head:10001")
]
From = Annotated[str | None, typer.Option("--from", help="the run's folder there, where no job tells of it")]
Checkpoint = Annotated[bool, typer.Option(help="with the merged checkpoint")]
Whole = Annotated[bool, typer.Option("--all", help="the answers of all candidates as well")]


def reach(address: str) -> None:
    """Before the command's own imports: Ray among them reads once whether it shows a token."""
    from evolve.workers import reaching

    reaching.reach(address)


def submit(
    search: Search, address: Address, name: Called = None, env: Env = None, pip: Pip = None, detach: Detach = False
) -> None:
    """Run a search on a Ray cluster, which goes on when this command ends; submit a running one to watch it."""
    asked = (search, address, name, env, pip, detach)
    execute("evolve.submission.submit", "submit", *asked, interrupted=LEFT, before=partial(reach, address))


def follow(name: Name, address: Address) -> None:
    """Show the log of a submitted run until it ends, and leave with its exit code."""
    execute("evolve.submission.submit", "follow_run", name, address, interrupted=LEFT, before=partial(reach, address))


def stop(name: Name, address: Address) -> None:
    """Stop a submitted run; what it has finished is recorded, and submitting it again goes on."""
    execute("evolve.submission.submit", "stop_run", name, address, interrupted=LEFT, before=partial(reach, address))


def fetch(
    name: Name,
    address: Address,
    out: Out = None,
    client: ClientAddress = None,
    folder: From = None,
    checkpoint: Checkpoint = True,
    whole: Whole = False,
) -> None:
    """Bring home what a submitted run has left: recipe, report, checkpoint. An interrupted one goes on."""
    asked = (name, address, out, client, folder, checkpoint, whole)
    execute("evolve.submission.fetching", "fetch", *asked, interrupted=CUT, before=partial(reach, address))
