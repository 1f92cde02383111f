"""Event lines of an in-process machine: an eventfd for each port, so that threads and epoll can wait for it."""

from __future__ import annotations

import os
from contextlib import suppress


class EventFdLines:
    """The world's `Lines` over eventfds. An eventfd that is full has an event pending already, which is enough."""

    def __init__(self) -> None:
        """Begin with no line."""
        self._fds: dict[int, int] = {}

    def opened(self, line: int, peer: int) -> None:
        """Make the line's eventfd."""
        del peer
        self._fds[line] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def raised(self, line: int) -> None:
        """Make it readable; never blocks."""
        fd = self._fds.get(line)
        if fd is not None:
            with suppress(BlockingIOError):
                os.eventfd_write(fd, 1)

    def closed(self, line: int) -> None:
        """Close this end; a channel object has its own."""
        os.close(self._fds.pop(line))

    def take(self, line: int) -> int:
        """A descriptor of its own for whoever waits on the line."""
        return os.dup(self._fds[line])

    def close(self) -> None:
        """Close every line."""
        for line in list(self._fds):
            self.closed(line)
