"""Files that are streams, such as `trace_pipe`.

A read that finds nothing waits (the request is parked), unless the file was opened so as not to block.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from xenfs import libfuse
from xenfs.fs.nodes import Node, OpenFile, Owner

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request

POLLIN, POLLOUT, POLLERR = 0x1 | 0x40, 0x4 | 0x100, 0x8  # with RDNORM and WRNORM


class OpenStream(OpenFile, ABC):
    """What ctl and trace_pipe have in common: bytes to come, readers that wait for them, and pollers."""

    flags = libfuse.FOPEN_DIRECT_IO | libfuse.FOPEN_STREAM | libfuse.FOPEN_NOFLUSH

    def __init__(self) -> None:
        """Nothing to read, nobody waiting."""
        self._readers: deque[tuple[Request, int]] = deque()
        self._handle: int | None = None

    @abstractmethod
    def take(self, size: int) -> bytes | None:
        """Up to `size` bytes; empty at the end of file; None when there is nothing yet. Raises what a read answers."""

    def read(self, request: Request, size: int, offset: int, nonblocking: bool) -> None:
        """See OpenFile."""
        del offset
        data = None if self._readers else self.take(size)
        if data is not None:
            request.data(data)
        elif nonblocking:
            request.error(errno.EAGAIN)
        else:
            waiter = (request, size)
            self._readers.append(waiter)
            request.park(lambda: self._readers.remove(waiter))

    def wake(self) -> None:
        """Something may have come: serve the readers, tell the pollers."""
        while self._readers:
            request, size = self._readers[0]
            try:
                data = self.take(size)
            except OSError as error:
                self._readers.popleft()
                request.error(error.errno or errno.EIO)
                continue
            if data is None:
                break
            self._readers.popleft()
            request.data(data)
        if self._handle and self.events() & (POLLIN | POLLERR):
            libfuse.notify_poll(self._handle)
            self._keep(None)

    def poll(self, request: Request, handle: int | None) -> None:
        """Answer what is ready, and remember how to tell when there is more."""
        if handle:
            self._keep(handle)
        request.polled(self.events())

    def _keep(self, handle: int | None) -> None:
        """One handle wakes every poller of the file, so the latest is enough."""
        if self._handle:
            libfuse.pollhandle_destroy(self._handle)
        self._handle = handle

    def release(self) -> None:
        """See OpenFile."""
        self._keep(None)


class TracePipe(Node):
    """hypervisor/trace_pipe."""

    def __init__(self, fs: Filesystem, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o400, owner)

    def open(self, flags: int) -> OpenFile:
        """Each open has a place of its own in the trace."""
        del flags
        return OpenTrace(self.fs)


class OpenTrace(OpenStream):
    """The trace from now on, a line a record; what was overwritten before it was read is counted in a line."""

    def __init__(self, fs: Filesystem) -> None:
        """Begin at the end."""
        super().__init__()
        self._fs = fs
        self._seen = fs.machine.trace.last
        self._text = b""
        fs.followers.append(self)

    def take(self, size: int) -> bytes | None:
        """See OpenStream."""
        if not self._text and self._seen < self._fs.machine.trace.last:
            lost, records = self._fs.machine.trace.since(self._seen)
            self._seen = self._fs.machine.trace.last
            said = [f'{{"lost": {lost}}}'] if lost else []
            self._text = "".join(f"{line}\n" for line in [*said, *(r.line() for r in records)]).encode()
        if not self._text:
            return None
        data, self._text = self._text[:size], self._text[size:]
        return data

    def events(self) -> int:
        """See OpenFile."""
        return POLLIN if self._text or self._seen < self._fs.machine.trace.last else 0

    def release(self) -> None:
        """See OpenFile."""
        super().release()
        self._fs.followers.remove(self)
