"""What a person sees while one merge works: bytes, speed and time left, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def merge_progress(shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what is to be called with (bytes done, bytes in all); None where nobody looks."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich import progress  # takes a while to import
    from rich.console import Console

    columns = (
        progress.TextColumn("merging"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        before, kept = (0, 0), 0

        def show(done: int, total: int) -> None:
            nonlocal before, kept
            if total != before[1] or done < before[0]:  # the first merge, or the next of several
                kept = done  # an earlier start did this much: not to be counted as this one's speed
                bar.reset(task, total=total - kept)
            before = (done, total)
            bar.update(task, completed=done - kept)

        yield show
