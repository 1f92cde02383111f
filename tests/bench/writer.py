"""Writes of 4 KiB, one behind the other, until stdin ends; the longest of them: `… tests.bench.writer DEVICE`."""

from __future__ import annotations

import mmap
import os
import select
import sys
import time


def main(path: str) -> None:
    """Write here and there. Reads would be answered out of the page cache."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    size = os.lseek(fd, 0, os.SEEK_END)
    room = mmap.mmap(-1, 4096)
    print("ready", flush=True)
    longest, at = 0.0, 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        begun = time.perf_counter()
        os.pwritev(fd, [room], at)
        longest = max(longest, time.perf_counter() - begun)
        at = (at + 7 * 4096) % (size // 4096 * 4096)
    print(longest, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
