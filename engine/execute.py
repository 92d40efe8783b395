"""Executing jobs: in threads, piece by piece, through kernels on a CPU, else through the reference in torch.

Every piece of a tensor is a function of the job alone; the sink says where it goes. So the candidate that is scored
and the checkpoint that is written have the same bits, in any order, on any number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from engine.errors import CheckpointError, NonFiniteError, RecipeError
from engine.job import Job
from engine.kept import Kept
from engine.nonfinite import is_finite, nonfinite_source
from engine.operands import PIECE, Map, Operands

if TYPE_CHECKING:
    from engine.kernels.kernel import Merge

LARGE = 2 * PIECE
"""Elements from which all threads work on one tensor; smaller ones have a thread each."""
_WORDS = {torch.bfloat16: torch.uint16, torch.float32: torch.float32}


class Sink(Protocol):
    """Where merged tensors go. Threads call it at the same time, for different pieces."""

    def room(self, job: Job, begin: int, end: int) -> torch.Tensor:
        """Return a flat tensor of the job's dtype on the CPU for the elements from begin to end."""
        ...

    def put(self, job: Job, begin: int, merged: torch.Tensor) -> None:
        """Take what `room` returned, now filled; or, where a device computes, a flat tensor of all the job."""
        ...


class Executor:
    """Runs jobs on a device. `kernels` False: none are loaded; it has to follow from the plan alone.

    With `check_sources`, NaN or infinity in an input is an error even where the method would drop that element.
    """

    def __init__(
        self, *, device: str = "cpu", kernels: bool = True, kept: Kept | None = None, check_sources: bool = False
    ) -> None:
        self._check_sources = check_sources
        self._device = device
        self._kernels = kernels and device == "cpu"
        self._kept = kept

    def run(self, jobs: Sequence[Job], sink: Sink) -> None:
        """Merge all jobs into the sink, on as many threads as torch is set to use.

        Raises what a failing job raises, RecipeError, CheckpointError or NonFiniteError; no others are begun then.
        """
        threads = torch.get_num_threads() if self._kernels else 1
        if threads == 1 or (len(jobs) == 1 and jobs[0].size < LARGE):
            for job in jobs:
                self._merge(job, sink, _one_by_one)
            return
        with _threads_of_torch(1), ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:

            def side_by_side(function: Callable[[int, int], Any], pieces: Sequence[tuple[int, int]]) -> list[Any]:
                return list(pool.map(lambda piece: function(*piece), pieces))

            for job in jobs:
                if job.size >= LARGE:
                    self._merge(job, sink, side_by_side)
            # The largest first, so that no thread is left with one while the others are done.
            waiting = deque(sorted((job for job in jobs if job.size < LARGE), key=lambda job: -job.size))

            def work() -> None:
                try:
                    while (job := _next(waiting)) is not None:
                        self._merge(job, sink, _one_by_one)
                except BaseException:
                    waiting.clear()
                    raise

            try:
                for worker in [pool.submit(work) for _ in range(threads)]:
                    worker.result()
            finally:
                waiting.clear()  # also where this thread is interrupted

    def _merge(self, job: Job, sink: Sink, over: Map) -> None:
        if self._check_sources and _drops_elements(job) and nonfinite_source(job) is not None:
            raise NonFiniteError(_not_finite(job))
        try:
            if not (self._kernels and _has_numbers_for_kernels(job) and self._by_kernel(job, sink, over)):
                self._by_reference(job, sink)
        except RecipeError as error:
            raise RecipeError(f"{job.name}: {error}") from None

    def _by_kernel(self, job: Job, sink: Sink, over: Map) -> bool:
        """Merge through a kernel; False where there is none for the job."""
        from engine.kernels.table import KERNELS  # numba takes half a second to load

        if job.method is None or (kernel := KERNELS.get(job.method.name)) is None:
            return False
        operands = Operands(job, over, self._kept)
        merge = kernel(operands, job.parameters, job.key)
        if merge is None:
            return False
        if not all(operands.map(lambda begin, end: _piece(job, sink, merge, begin, end))):
            raise NonFiniteError(_not_finite(job))
        return True

    def _by_reference(self, job: Job, sink: Sink) -> None:
        merged = run_reference(job, self._device).flatten()
        if not is_finite(merged):
            raise NonFiniteError(_not_finite(job))
        sink.put(job, 0, merged)


@contextmanager
def _threads_of_torch(count: int) -> Iterator[None]:
    """Keep torch to so many threads: else each of ours would have as many again where it calls torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _next(waiting: deque[Job]) -> Job | None:
    try:
        return waiting.popleft()
    except IndexError:  # none is left
        return None


def _one_by_one(function: Callable[[int, int], Any], pieces: Sequence[tuple[int, int]]) -> list[Any]:
    return [function(*piece) for piece in pieces]


def _has_numbers_for_kernels(job: Job) -> bool:
    return job.work_dtype == torch.float32 and job.size > 0


def _drops_elements(job: Job) -> bool:
    return job.method is not None and job.method.combination is None


def _piece(job: Job, sink: Sink, merge: Merge, begin: int, end: int) -> bool:
    room = sink.room(job, begin, end)
    if (words := _WORDS.get(job.dtype)) is not None:
        finite = merge(begin, end, room.view(words).numpy())
    else:
        wide = torch.empty(end - begin, dtype=torch.float32)
        merge(begin, end, wide.numpy())
        room.copy_(wide)
        finite = is_finite(room)
    sink.put(job, begin, room)
    return finite


@torch.no_grad()
def run_reference(job: Job, device: str) -> torch.Tensor:
    """Return a whole tensor, merged by the method's reference on `device`: never a view of an input."""
    inputs = [member.read(job.work_dtype, device) for member in job.inputs]
    base = job.base.read(job.work_dtype, device) if job.base else None
    if job.method is None:
        return _copy(job, [*([base] if base is not None else []), *inputs])
    merged = job.method.reference(inputs, base, job.parameters, job.key).to(job.dtype)
    if any(merged.data_ptr() == tensor.data_ptr() for tensor in inputs):
        merged = merged.clone()  # may be a view of a read-only file
    return merged


def _copy(job: Job, tensors: list[torch.Tensor]) -> torch.Tensor:
    if not all(torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
        raise CheckpointError(f"{job.name}: holds {job.dtype}, which cannot be merged, and differs between the models")
    return tensors[0].clone()


def _not_finite(job: Job) -> str:
    """Return the message that says whose fault it is that a merged tensor holds NaN or infinity."""
    if (found := nonfinite_source(job)) is not None:
        return f"{found[0]}: {found[1]} holds NaN or infinity; download the model again, or leave it away"
    return (
        f"{job.name}: has NaN or infinite weights after the merge, though no model has; see that the recipe's weights"
        f" are not huge, and that {str(job.dtype).removeprefix('torch.')} can hold the result"
    )
