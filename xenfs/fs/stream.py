"""Files that are streams, such as `trace_pipe`.

A read that finds nothing waits (the request is parked), unless the file was opened so as not to block.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from xenfs import libfuse
from xenfs.fs.nodes import Node, OpenFile, Owner

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request

_KEPT, _KEPT_CHARACTERS = 4096, 1 << 21
"""Operations of the store that wait for a reader: so many, and in so many characters, for a guest's may be long."""
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


class OpenLines(OpenStream, ABC):
    """Lines to come, of which a read takes as many bytes as it has room for."""

    def __init__(self, fs: Filesystem) -> None:
        """Nothing to read yet."""
        super().__init__()
        self.fs = fs
        self._text, self._at = b"", 0

    @abstractmethod
    def more(self) -> list[str]:
        """The lines that have come since it was asked last."""

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """Whether there are any."""

    def take(self, size: int) -> bytes | None:
        """See OpenStream."""
        if not self._left and self.waiting:
            self._text, self._at = "".join(f"{line}\n" for line in self.more()).encode(), 0
        if not self._left:
            return None
        data = self._text[self._at : self._at + size]
        self._at += len(data)
        if not self._left:
            self._text, self._at = b"", 0
        return data

    @property
    def _left(self) -> bool:
        return self._at < len(self._text)

    def events(self) -> int:
        """See OpenFile."""
        return POLLIN if self._left or self.waiting else 0


def _lost(count: int) -> list[str]:
    """A line for those that are not there any more."""
    return [f'{{"lost": {count}}}'] if count else []


class Pipe(Node):
    """A file that is followed: hypervisor/trace_pipe, store_pipe. Each open has a place of its own."""

    def __init__(self, fs: Filesystem, owner: Owner, opened: Callable[[Filesystem], OpenLines]) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o400, owner)
        self._opened = opened

    def open(self, flags: int) -> OpenFile:
        """See Node."""
        del flags
        return self._opened(self.fs)


class OpenTrace(OpenLines):
    """The trace from now on, a line a record; what was overwritten before it was read is counted in a line."""

    def __init__(self, fs: Filesystem) -> None:
        """Begin at the end."""
        super().__init__(fs)
        self._seen = fs.machine.trace.last
        fs.followers.append(self)

    @property
    def waiting(self) -> bool:
        """See OpenLines."""
        return self._seen < self.fs.machine.trace.last

    def more(self) -> list[str]:
        """See OpenLines."""
        lost, records = self.fs.machine.trace.since(self._seen)
        self._seen = self.fs.machine.trace.last
        return [*_lost(lost), *(record.line() for record in records)]

    def release(self) -> None:
        """See OpenFile."""
        super().release()
        self.fs.followers.remove(self)


class OpenOperations(OpenLines):
    """What is done with the store from now on, a line an operation; for what there was no room is counted in a line."""

    def __init__(self, fs: Filesystem) -> None:
        """Begin empty."""
        super().__init__(fs)
        self._lines: list[str] = []
        self._long = self._lost = 0
        fs.store_followers.append(self)
        fs.store.operated = fs.operated

    def add(self, line: str) -> None:
        """Something was done."""
        if self._lost or len(self._lines) >= _KEPT or self._long + len(line) > _KEPT_CHARACTERS:
            self._lost += 1
        else:
            self._lines.append(line)
            self._long += len(line)

    @property
    def waiting(self) -> bool:
        """See OpenLines."""
        return bool(self._lines)

    def more(self) -> list[str]:
        """See OpenLines."""
        said = [*self._lines, *_lost(self._lost)]
        self._lines, self._long, self._lost = [], 0, 0
        return said

    def release(self) -> None:
        """See OpenFile. Where nobody follows, nothing is told."""
        super().release()
        self.fs.store_followers.remove(self)
        if not self.fs.store_followers:
            self.fs.store.operated = None
