"""The command line. Every subcommand imports what it needs in its body, so that `evolve --help` is instant.

Exit codes: 0 done; 2 the user can put it right (one message, no traceback); 1 a defect of ours (traceback);
130 interrupted (state is safe, the message says how to go on).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="evolve",
    help="Finds the best way to merge fine-tuned language models, and proves it on documents the search never saw.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = "\ninterrupted; what is finished is recorded: the same command goes on from there"

SearchFile = Annotated[Path, typer.Argument(help="a search.yaml; see `evolve show config`")]
RunFolder = Annotated[Path, typer.Argument(help="a run's folder, such as results/demo")]


@app.command()
def run(search: SearchFile) -> None:
    """Search, or go on where an earlier start stopped; ends with best.yaml, checkpoint/ and report.md."""
    execute("evolve.run", "run", search)


@app.command()
def check(
    search: SearchFile,
    time: Annotated[bool, typer.Option(help="score the base once to tell the time of a candidate")] = True,
) -> None:
    """Find everything that can be known before the first trial; merges nothing."""
    execute("evolve.check", "check", search, time)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="a recipe in mergekit's YAML dialect")],
    out: Annotated[Path, typer.Argument(help="the folder of the merged checkpoint")],
    device: Annotated[str, typer.Option(help="where to compute: cpu, cuda, cuda:1 ...")] = "cpu",
    seed: Annotated[int | None, typer.Option(help="of random methods; else the recipe's, else 0")] = None,
) -> None:
    """Make one merge, as mergekit-yaml does it."""
    execute("evolve.merging", "merge", recipe, out, device, seed, parallel=True)


@app.command()
def status(folder: RunFolder) -> None:
    """Say where a run stands."""
    execute("evolve.status", "status", folder)


@app.command()
def report(folder: RunFolder) -> None:
    """Write a finished run's report.md again."""
    execute("evolve.reporting", "report", folder)


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="methods, spaces, optimizers, tasks or config")],
    include: Annotated[
        list[Path] | None, typer.Option(help="with tasks: those of these folders, not lm-eval's own")
    ] = None,
) -> None:
    """List what there is: merge methods, search spaces, optimizers, tasks, or the keys of search.yaml."""
    execute("evolve.show", "show", what, include or [])


def execute(module: str, function: str, *arguments: Any, parallel: bool = False) -> None:
    """Import a subcommand's module once the process's surroundings are set, and call it.

    It computes with as many threads as OMP_NUM_THREADS says, else one, or all cores if it is `parallel`.
    Errors of users become one message and exit code 2, an interruption 130; defects of ours keep their traceback.
    """
    from evolve.environment import asked_threads, limit_threads, quiet, usable_cores

    limit_threads(asked_threads() or (usable_cores() if parallel else 1))
    quiet()
    signals: list[int] = []
    listen(lambda number, frame: leave())
    try:
        command = getattr(importlib.import_module(module), function)
        listen(lambda number, frame: interrupt(number, signals))
        command(*arguments)
    except KeyboardInterrupt:
        listen(signal.SIG_IGN)  # a second Ctrl-C would tear what libraries do at exit
        stop(INTERRUPTED, 130)
    except Exception as error:
        if signals:  # a library made an error of its own of the interruption
            listen(signal.SIG_IGN)
            stop(INTERRUPTED, 130)
        if not is_users(error):
            raise
        stop("\n".join(f"error: {line}" for line in str(error).splitlines()), 2)


def listen(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    """For Ctrl-C, and for SIGTERM as well: a cluster that stops us is no other."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, handler)


def leave() -> None:
    """While libraries are imported nothing is held yet, and an exception in their midst would not come through."""
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(130)


def interrupt(number: int, signals: list[int]) -> None:
    signals.append(number)
    raise KeyboardInterrupt


def is_users(error: Exception) -> bool:
    """Whether the error is one of those that a user can put right (the tree in evolve/errors.py)."""
    roots = {"evolve.errors": "EvolveError", "engine.errors": "EngineError", "tasks.errors": "TaskError"}
    classes = [getattr(sys.modules[module], name) for module, name in roots.items() if module in sys.modules]
    return isinstance(error, tuple(classes))


def stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """The entry point of the command `evolve`."""
    app()
