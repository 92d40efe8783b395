"""What a kernel reads: the inputs of a job as flat words, piece by piece.

bfloat16 and float32 tensors that stand in a mapped file are handed out as they are. Everything else (other dtypes,
adapters, vocabularies put together from rows) is turned into float32, a piece at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from engine.job import Input, Job
from engine.kept import Kept
from engine.methods.method import Array

PIECE = 1 << 21
"""Elements that are worked on at once, about: several pieces of each input fit into a processor's shared cache."""
MOST_MASKS = 8
"""Sources whose masks of what is kept fit into one byte an element."""
ROWS = 256
"""A piece is a multiple of so many rows: the blocks in which adapters are multiplied."""

T = TypeVar("T")
Map = Callable[[Callable[[int, int], Any], Sequence[tuple[int, int]]], list[Any]]


class Stream:
    """One input as flat words, uint16 for bfloat16 or float32."""

    def __init__(self, source: Input, *, whole: bool) -> None:
        """Read the tensor now if its words stand in a file, or with `whole`; else piece by piece, again and again."""
        self.source = source
        self._row = math.prod(source.shape[1:])
        self._words: Array | None = None
        if source.rows is not None:
            self._words = flat_words(source.read(torch.float32, "cpu"))
        elif source.mapped or whole or not source.shape:
            self._words = flat_words(source.checkpoint.read(source.name))

    def words(self, begin: int, end: int) -> Array:
        """Return the words of the elements from begin to end, not to be written to."""
        if self._words is not None:
            return self._words[begin:end]
        first, last = begin // self._row, -(-end // self._row)
        rows = flat_words(self.source.checkpoint.read(self.source.name, slice(first, last)))
        return rows[begin - first * self._row : end - first * self._row]


def _streams(sources: tuple[Input, ...], kept: Kept | None) -> tuple[Stream, ...]:
    if kept is None:
        return tuple(Stream(source, whole=False) for source in sources)

    def stream(source: Input) -> Stream:
        return kept.get("stream", (source,), lambda: Stream(source, whole=kept.holds(source)))

    return kept.get("streams", sources, lambda: tuple(map(stream, sources)))


def flat_words(tensor: torch.Tensor) -> Array:
    """Return a tensor on the CPU as flat words: uint16 for bfloat16, float32 for all others."""
    flat = tensor.detach().contiguous().flatten()
    words: Array = flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.float().numpy()
    return words


class Operands:
    """The inputs of one job, and how to go through them in pieces."""

    def __init__(self, job: Job, map_pieces: Map, kept: Kept | None) -> None:
        self.job = job  # kernels may need its shape
        self._kept = kept
        self._made: dict[Hashable, Any] = {}
        streams = _streams(job.members, kept)
        self.inputs, self.base = streams[: len(job.inputs)], streams[-1] if job.base else None
        self.size = job.size
        self.pieces = pieces_of(job)
        self._map = map_pieces

    def map(self, function: Callable[[int, int], Any]) -> list[Any]:
        """Return function(begin, end) of every piece, in order; several at a time for a large tensor."""
        return self.over(function, self.pieces)

    def over(self, function: Callable[[int, int], Any], pieces: Sequence[tuple[int, int]]) -> list[Any]:
        """Return function(begin, end) of some pieces, as `map` does of all."""
        return self._map(function, pieces)

    def once(self, what: str, streams: Sequence[Stream | None], make: Callable[[], T]) -> T:
        """Return what `make` makes of these streams, or made earlier: for this job, or for an earlier candidate."""
        if self._kept is None:
            key = (what, *streams)
            if key not in self._made:
                self._made[key] = make()
            made: T = self._made[key]
            return made
        return self._kept.get(what, tuple(stream.source if stream else None for stream in streams), make)

    def words(self, begin: int, end: int, some: Sequence[bool] | None = None) -> tuple[Array, ...]:
        """Return the words of all inputs, or of those marked in `some`, the base aside, in one dtype."""
        wanted = self.inputs if some is None else itertools.compress(self.inputs, some)
        return _alike([stream.words(begin, end) for stream in wanted])

    def all_words(self, begin: int, end: int) -> tuple[Array, ...]:
        """Return the words of the base and of all inputs, in one dtype."""
        return _alike([self.base_words(begin, end), *(stream.words(begin, end) for stream in self.inputs)])

    def base_words(self, begin: int, end: int) -> Array:
        """Return the words of the base, which the caller knows to be there."""
        if self.base is None:
            raise ValueError("the job has no base")
        return self.base.words(begin, end)


def pieces_of(job: Job) -> tuple[tuple[int, int], ...]:
    """Return [begin, end) of every piece: the same on all machines, since sums are taken piece by piece.

    A piece of a matrix has whole blocks of rows, others have whole rows, of the last dimension where all inputs are
    mapped and else of the first, along which they are read.
    """
    shape = job.shape
    if len(shape) <= 2:
        unit = ROWS * math.prod(shape[1:])
    else:
        unit = shape[-1] if all(source.mapped for source in job.members) else math.prod(shape[1:])
    step = max(1, unit) * max(1, PIECE // max(1, unit))
    return tuple((begin, min(begin + step, job.size)) for begin in range(0, job.size, step))


def _alike(found: list[Array]) -> tuple[Array, ...]:
    alike = all(words.dtype == found[0].dtype for words in found)
    return tuple(found if alike else map(widened, found))


def widened(words: Array) -> Array:
    """Return float32 words of uint16 ones (bfloat16)."""
    return (words.astype(np.uint32) << 16).view(np.float32) if words.dtype == np.uint16 else words


def between(begin: int, end: int, cuts: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield [begin, end) in parts which no cut lies inside of."""
    edges = sorted({begin, end, *(cut for cut in cuts if begin < cut < end)})
    yield from itertools.pairwise(edges)
