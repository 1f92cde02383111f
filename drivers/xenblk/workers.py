"""Threads for what waits for a device, and the way back to the loop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from xenfs.xenbus import Loop
from xenfs.xenbus.loop import Call

THREADS = 8
Done = Callable[[OSError | None], None]


class Workers:
    """Jobs are done on threads, several at a time; `done` is called on the loop with the error, if there was one."""

    def __init__(self, loop: Loop, attempt: Callable[[Call], None]) -> None:
        """Threads are started as they are needed. `attempt` calls what may go wrong with the device."""
        self._loop, self._attempt = loop, attempt
        self._pool = ThreadPoolExecutor(THREADS, "xenblk")
        self._over: deque[tuple[Done, OSError | None]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.watch(self._fd, self._collect)

    def put(self, job: Callable[[], None], done: Done) -> None:
        """Have a job done."""

        def run() -> None:
            error: OSError | None = None
            try:
                job()
            except OSError as failed:
                error = failed
            self._over.append((done, error))
            os.eventfd_write(self._fd, 1)

        self._pool.submit(run)

    def _collect(self) -> None:
        os.eventfd_read(self._fd)
        while self._over:
            done, error = self._over.popleft()
            self._attempt(partial(done, error))

    def close(self) -> None:
        """Wait for the jobs under way, whose `done` is not called any more."""
        self._pool.shutdown(wait=True)
        self._loop.unwatch(self._fd)
        os.close(self._fd)
