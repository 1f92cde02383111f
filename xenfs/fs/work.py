"""What must not be done on the event loop: calls into the kernel that wait for the loop itself.

Invalidating a page writes it back through us and waits; opening a FIFO of the mount sends us lookups. One thread does
such jobs, in order. `then` puts a continuation behind them, which runs on the loop: that is how the answer of a
hypercall waits for what the hypercall caused.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class Work:
    """A thread with a queue, and the way back to the loop: `fd` polls readable when `collect` has something to run."""

    def __init__(self) -> None:
        """Begin idle; the thread starts with `start`."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._jobs: queue.SimpleQueue[tuple[Job, bool] | None] = queue.SimpleQueue()
        self._back: deque[Job] = deque()
        self._outstanding = 0
        self._closed = False
        self.ended = False
        self._thread = threading.Thread(target=self._run, name="xenfs-work", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def tid(self) -> int:
        """The thread's id, by which the loop knows its lookups."""
        return self._thread.native_id or -1

    def put(self, job: Job) -> None:
        """Have a job done on the thread, after those before it. From the loop only."""
        self._put(job, on_loop=False)

    def _put(self, job: Job, *, on_loop: bool) -> None:
        if not self._closed:
            self._outstanding += 1
            self._jobs.put((job, on_loop))

    def then(self, continuation: Job) -> None:
        """Run a continuation on the loop when all jobs so far are done; at once when there are none."""
        if self.idle:
            continuation()
        else:
            self._put(continuation, on_loop=True)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way. On the loop only."""
        return self._outstanding == 0

    def back(self, continuation: Job) -> None:
        """Run something on the loop; from any thread."""
        self._back.append(continuation)
        os.eventfd_write(self.fd, 1)

    def collect(self) -> None:
        """Run what has come back. From the loop only."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return
        while self._back:
            try:
                self._back.popleft()()
            except Exception:
                # it was about one request; the machine goes on
                traceback.print_exc(file=sys.stderr)

    def _finished(self) -> None:
        self._outstanding -= 1

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, on_loop = item
            if on_loop:
                self._back.append(job)
            else:
                try:
                    job()
                except Exception:
                    # a job fails for its own page or FIFO only; the machine goes on
                    traceback.print_exc(file=sys.stderr)
            self.back(self._finished)
        self.ended = True
        self.back(lambda: None)

    def close(self) -> None:
        """Take no more jobs: the thread ends after those so far, for which the loop must go on until `ended`."""
        self._closed = True
        self._jobs.put(None)
