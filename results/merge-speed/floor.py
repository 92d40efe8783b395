"""The least that merging files can cost: read all sources once, write the output's bytes once.

    python floor.py THREADS OUT SOURCE...

Pieces of 8 MiB are read from every source and the first source's piece is written, in threads; the output is on the
disk at the end (fsync), as a merge that may be relied on has it. Prints the seconds, without Python's start.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

PIECE = 8 << 20


def main(threads: int, out: str, sources: list[str]) -> float:
    start = time.perf_counter()
    size = os.path.getsize(sources[0])
    descriptors = [os.open(source, os.O_RDONLY) for source in sources]
    target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def copy(thread: int) -> None:
        buffer = memoryview(bytearray(PIECE))
        for at in range(thread * PIECE, size, threads * PIECE):
            for descriptor in reversed(descriptors):
                count = os.preadv(descriptor, [buffer], at)
            os.pwrite(target, buffer[:count], at)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(copy, range(threads)))
    os.fsync(target)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
