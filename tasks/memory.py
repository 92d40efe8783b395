"""Forward passes that do not fit into memory are cut in half, until they do."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tasks.spec import SMALLEST


@dataclass
class Allowance:
    """`tokens`: at most so many in a forward pass. It shrinks where an allocation fails, and stays small."""

    tokens: int

    def within(self, work: Callable[[int], None]) -> None:
        """Call `work(tokens)`, again with half as many as often as memory runs out.

        `work` keeps what it has done, so only the rest is done again. Raises MemoryError when nothing helps.
        """
        while True:
            try:
                work(self.tokens)
                return
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.tokens < 2 * SMALLEST:
                    raise MemoryError(f"a forward pass of {self.tokens} tokens does not fit into memory") from error
            self.tokens //= 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out; torch's CPU allocator and cuBLAS have no class for it."""
    said = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in said)
