"""Running a subcommand: surroundings first, then its imports, then what is asked; signals and errors on the way.

Exit codes: 0 done; 2 the user can put it right (one message, no traceback); 1 a defect of ours (traceback);
130 interrupted (state is safe, the message says how to go on).
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from evolve.workers.interruption import INTERRUPTION

INTERRUPTED = "\ninterrupted; what is finished is recorded: the same command goes on from there"
THERE = "\ninterrupted; what is finished is recorded: `evolve submit` of the same search goes on from there"
SUBMITTED = "EVOLVE_SUBMITTED"  # the variable that says that `evolve submit` has started this
AGAIN = 30  # seconds until it is raised once more: within a destructor Python drops an exception


def execute(
    module: str,
    function: str,
    *arguments: Any,
    parallel: bool = False,
    threads: int | None = None,
    interrupted: str = INTERRUPTED,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Import a subcommand's module once the process's surroundings are set, and call it.

    `before` raises what can be known to be wrong without that import, which takes seconds.
    It computes with as many `threads`, else as OMP_NUM_THREADS says, else one, or all cores if it is `parallel`.
    Errors of users become one message and exit code 2, an interruption 130 and the message `interrupted`; defects of
    ours keep their traceback.
    """
    from evolve.environment import asked_threads, limit_threads, quiet, usable_cores

    limit_threads(threads or asked_threads() or (usable_cores() if parallel else 1))
    quiet()
    signals: list[int] = []
    listen(lambda number, frame: leave(interrupted))
    try:
        before()
        command = getattr(imported(module), function)
        listen(lambda number, frame: interrupt(number, signals))
        command(*arguments)
    except KeyboardInterrupt:
        listen(signal.SIG_IGN)  # a second Ctrl-C would tear what libraries do at exit
        stop(interrupted, 130)
    except Exception as error:
        if signals:  # a library made an error of its own of the interruption
            listen(signal.SIG_IGN)
            stop(interrupted, 130)
        if not is_users(error):
            raise
        stop("\n".join(f"error: {printable(line)}" for line in str(error).splitlines()), 2)


def how_to_go_on() -> str:
    """What an interrupted run says, where its command was typed and where another one has started it."""
    return THERE if os.environ.get(SUBMITTED) else INTERRUPTED


def imported(module: str) -> ModuleType:
    """Import without searching for garbage, of which imports make none: with torch that is a quarter of the time."""
    gc.disable()
    try:
        found = importlib.import_module(module)
        gc.freeze()  # nor is what was imported searched later on
        return found
    finally:
        gc.enable()


def listen(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    """For Ctrl-C, and for SIGTERM as well: a cluster that stops us is no other."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):  # the last one rings when a SIGTERM has waited
        signal.signal(each, handler)


def leave(message: str) -> None:
    """While libraries are imported nothing is held yet, and an exception in their midst would not come through."""
    print(message, file=sys.stderr, flush=True)
    os._exit(130)


def interrupt(number: int, signals: list[int]) -> None:
    if INTERRUPTION.waits(number):
        return
    signals.append(number)
    signal.alarm(AGAIN)
    raise KeyboardInterrupt


def is_users(error: Exception) -> bool:
    """Whether the error is one of those that a user can put right (the tree in evolve/errors.py)."""
    roots = {"evolve.errors": "EvolveError", "engine.errors": "EngineError", "tasks.errors": "TaskError"}
    classes = [getattr(sys.modules[module], name) for module, name in roots.items() if module in sys.modules]
    return isinstance(error, tuple(classes))


def printable(line: str) -> str:
    """Without what would command a terminal, hide or reverse a text: names in messages may be anybody's."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
