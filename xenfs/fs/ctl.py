"""`ctl`: hypercalls go in and answers come out."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from xenfs.abi.wire import Wire
from xenfs.fs.nodes import Node, OpenFile, Owner
from xenfs.fs.stream import POLLIN, POLLOUT, OpenStream
from xenfs.fs.turns import Turns, Waiter
from xenfs.hypervisor import text
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.trace import Failure

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request
    from xenfs.hypervisor.state import Domain

MAX_UNREAD = 1 << 20
"""Bytes of answers that wait to be read before ctl takes no more calls."""


class Ctl(Node):
    """domains/N/ctl."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner, turns: Turns) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o600, owner)
        self.domain, self.turns = domain, turns

    def open(self, flags: int) -> OpenFile:
        """Each open is a handle of the domain; without the right to write it has nothing to say."""
        return OpenCtl(self, None if flags & 3 == os.O_RDONLY else self.fs.open_handle(self.domain))


class OpenCtl(OpenStream):
    """A conversation: a line is a hypercall, answered by a line, in order. `_owed` counts what is not answered yet."""

    def __init__(self, node: Ctl, handle: int | None) -> None:
        """Begin with nothing asked."""
        super().__init__()
        self._node, self._handle_number = node, handle
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
        self._owed += 1
        waiter = self._node.turns.wait(lambda: self._accept(request, data))
        if not request.answered:
            request.park(lambda: self._interrupted(waiter))

    def _interrupted(self, waiter: Waiter) -> None:
        self._node.turns.cancel(waiter)
        self._owed -= 1
        self.wake()

    def _accept(self, request: Request, data: bytes) -> None:
        """Take what was written, and answer the write."""
        self._owed -= 1
        if len(self._answers) > MAX_UNREAD:
            request.error(errno.EAGAIN)
            return
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
        self._owed += 1
        self._node.turns.owe()
        self._node.fs.work.then(lambda: self._answer(answer))

    def _answer(self, answer: bytes) -> None:
        self._owed -= 1
        self._answers += answer
        self.wake()
        self._node.turns.paid()

    def _call(self, line: bytes) -> str:
        request: Wire | None = None
        try:
            request = text.parse(line.decode("utf-8", "replace"))
            return text.answer(self._node.fs.call(request, self._node.domain, self._handle_number or 0))
        except HypercallError as error:
            return text.refusal(Failure.of(error, request))

    def release(self) -> None:
        """See OpenFile."""
        super().release()
        if self._handle_number is not None:
            self._node.fs.close_handle(self._node.domain, self._handle_number)
