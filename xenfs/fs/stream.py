"""Files that are streams: `ctl`, where hypercalls go in and answers come out, and `trace_pipe`.

A read that finds nothing waits (the request is parked), unless the file was opened so as not to block.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from xenfs.abi.wire import Wire
from xenfs.fs import libfuse
from xenfs.fs.nodes import Node, OpenFile, Owner
from xenfs.hypervisor import text
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.trace import Failure

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request
    from xenfs.hypervisor.state import Domain

POLLIN, POLLOUT = 0x1 | 0x40, 0x4 | 0x100  # with RDNORM and WRNORM
MAX_UNREAD = 1 << 20
"""Bytes of answers that wait to be read before ctl takes no more calls."""


class OpenStream(OpenFile, ABC):
    """What ctl and trace_pipe have in common: bytes to come, readers that wait for them, and pollers."""

    flags = libfuse.FOPEN_DIRECT_IO | libfuse.FOPEN_STREAM

    def __init__(self) -> None:
        """Nothing to read, nobody waiting."""
        self._readers: deque[tuple[Request, int]] = deque()
        self._handle: int | None = None

    @abstractmethod
    def take(self, size: int) -> bytes | None:
        """Up to `size` bytes; empty at the end of file; None when there is nothing yet."""

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
            data = self.take(self._readers[0][1])
            if data is None:
                break
            request, _ = self._readers.popleft()
            request.resume()
            request.data(data)
        if self._handle and self.events() & POLLIN:
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


class Ctl(Node):
    """domains/N/ctl."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o600, owner)
        self.domain = domain

    def open(self, flags: int) -> OpenFile:
        """Each open is a handle of the domain; without the right to write it has nothing to say."""
        return OpenCtl(self.fs, self.domain, None if flags & 3 == os.O_RDONLY else self.fs.open_handle(self.domain))


class OpenCtl(OpenStream):
    """A conversation: a line is a hypercall, answered by a line, in order."""

    def __init__(self, fs: Filesystem, domain: Domain, handle: int | None) -> None:
        """Begin with nothing asked."""
        super().__init__()
        self._fs, self._domain, self._open = fs, domain, handle
        self._line = b""
        self._skipping = False
        self._answers = bytearray()
        self._owed = 0

    def take(self, size: int) -> bytes | None:
        """See OpenStream: the end of file when nothing is unanswered."""
        if not self._answers:
            return None if self._owed else b""
        data = bytes(self._answers[:size])
        del self._answers[:size]
        return data

    def events(self) -> int:
        """See OpenFile."""
        return POLLOUT | (POLLIN if self._answers else 0)

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """See OpenFile."""
        del offset
        if len(self._answers) + self._owed > MAX_UNREAD:
            raise OSError(errno.EAGAIN, "read the answers first")
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._ask(line)
        if self._skipping:
            self._line = b""
        elif len(self._line) > text.MAX_LINE:
            self._ask(self._line)
            self._line, self._skipping = b"", True  # to its end: a line has one answer
        request.written(len(data))

    def _ask(self, line: bytes) -> None:
        answer = self._call(line).encode() + b"\n"
        self._owed += len(answer)
        self._fs.work.then(lambda: self._answer(answer))

    def _answer(self, answer: bytes) -> None:
        self._owed -= len(answer)
        self._answers += answer
        self.wake()

    def _call(self, line: bytes) -> str:
        request: Wire | None = None
        try:
            request = text.parse(line.decode("utf-8", "replace"))
            return text.answer(self._fs.call(request, self._domain, self._open or 0))
        except HypercallError as error:
            return text.refusal(Failure.of(error, request))

    def release(self) -> None:
        """See OpenFile."""
        super().release()
        if self._open is not None:
            self._fs.close_handle(self._domain, self._open)


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
