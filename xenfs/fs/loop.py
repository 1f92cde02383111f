"""The event loop: descriptors, and what is done when one of them has something."""

from __future__ import annotations

import select
import sys
import traceback
from collections.abc import Callable


class Loop:
    """One epoll. What a descriptor's callback raises is told on stderr and ends nothing."""

    def __init__(self) -> None:
        """Begin with no descriptor."""
        self._poller = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, ready: Callable[[], None], *, once: bool = False) -> None:
        """Call `ready` whenever the descriptor can be read; with `once` not again until `again`."""
        self._poller.register(fd, select.EPOLLIN | (select.EPOLLONESHOT if once else 0))
        self._ready[fd] = ready

    def again(self, fd: int) -> None:
        """Look at a descriptor watched `once` one more time."""
        self._poller.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def change(self, fd: int, *, read: bool, write: bool) -> None:
        """Call it when the descriptor can be read, written, or both, from now on."""
        self._poller.modify(fd, (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0))

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        del self._ready[fd]
        self._poller.unregister(fd)

    def turn(self, timeout: float | None) -> None:
        """Wait up to `timeout` seconds, None for ever, and serve what is ready."""
        for fd, _ in self._poller.poll(timeout):
            ready = self._ready.get(fd)
            if ready is not None:
                try:
                    ready()
                except Exception:
                    traceback.print_exc(file=sys.stderr)

    def close(self) -> None:
        """End."""
        self._poller.close()
