"""dev/xenbus, as Linux's drivers/xen/xenbus/xenbus_dev_frontend.c behaves (xen-interfaces.md 1.5 and D.4).

One request a write, or dribbled; watches are the driver's own, so the same one may be set twice and an unknown one
taken back. A client that does not read its answers waits in its next write; one that does not read its events is cut
off when they are too many, which it finds behind those that were kept for it.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from xenfs.abi.xs_wire import XsType
from xenfs.fs.dev.device import OpenDevice
from xenfs.fs.stream import POLLERR, POLLIN
from xenfs.xenstore.connection import Connection
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.wire import HEADER, Message

if TYPE_CHECKING:
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.request import Request

BUFFER = 4096
"""Bytes of a request with its header."""
OK = b"OK\0"
_ENDS = (b"T\0", b"F\0")


class OpenXenbus(OpenDevice):
    """An open dev/xenbus: a client of the store as this domain."""

    has_handle = False

    def __init__(self, dev: Dev, flags: int) -> None:
        """Connect."""
        super().__init__(dev, flags)
        self._connection = Connection(self.fs.store, self.domain.domid, self.wake, twice_is_fine=True)
        self._buffer = b""
        self._writers: deque[tuple[Request, bytes]] = deque()
        self._dead = False

    def bury(self) -> None:
        """See OpenDevice."""
        self._dead = True
        super().bury()
        while self._writers:
            request, _ = self._writers.popleft()
            request.error(errno.ENODEV)

    def take(self, size: int) -> bytes | None:
        """See OpenStream."""
        data = self._connection.take(size)
        if data:
            self._go_on()
            return data
        self._check()
        return b"" if self.readonly else None

    def _check(self) -> None:
        if self._dead:
            raise OSError(errno.ENODEV, "the domain has been destroyed")
        if self._connection.broken:
            raise OSError(errno.ECONNRESET, self._connection.broken)

    def events(self) -> int:
        """See OpenFile: as on Linux, never that it can be written."""
        if self._connection.pending and not self._dead:
            return POLLIN
        return POLLERR if self._dead or self._connection.broken else 0

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """Take a piece of a request; the one that completes it has it carried out."""
        del offset
        self._check()
        if self._connection.accepting and not self._writers:
            self._accept(request, data)
            return
        waiter = (request, data)
        self._writers.append(waiter)
        request.park(lambda: self._writers.remove(waiter))

    def _go_on(self) -> None:
        """There is room for answers again."""
        while self._writers and self._connection.accepting:
            request, data = self._writers.popleft()
            try:
                self._accept(request, data)
            except OSError as error:
                request.error(error.errno or errno.EIO)

    def _accept(self, request: Request, data: bytes) -> None:
        buffer, self._buffer = self._buffer + data, b""
        if len(buffer) > BUFFER:
            raise OSError(errno.EINVAL, f"a request of more than {BUFFER} bytes")
        if len(buffer) >= HEADER.size:
            kind, number, transaction, size = HEADER.unpack_from(buffer)
            end = HEADER.size + size
            if end > BUFFER:
                raise OSError(errno.E2BIG, f"a request of {size} bytes and its header: at most {BUFFER}")
            if len(buffer) >= end:
                # what is behind it in the same write is lost, as on Linux
                self._ask(Message(kind, number, transaction, buffer[HEADER.size : end]))
                request.written(len(data))
                self.wake()
                return
        self._buffer = buffer
        request.written(len(data))

    def _ask(self, message: Message) -> None:
        connection, payload = self._connection, message.payload
        if message.type in (XsType.WATCH, XsType.UNWATCH):
            self._watch(message)
        elif (
            message.transaction not in (0, *connection.client.transactions) and message.type != XsType.TRANSACTION_START
        ):
            connection.refuse(message, errno.ENOENT)
        elif message.type == XsType.TRANSACTION_END and payload not in _ENDS:
            connection.refuse(message, errno.EINVAL)
        else:
            connection.answer(message)

    def _watch(self, message: Message) -> None:
        """Set or take back a watch. What the store says against it fails the write."""
        connection = self._connection
        path, *rest = message.payload.split(b"\0")
        if len(rest) < 2:
            connection.refuse(message, errno.EINVAL)
            return
        store, client = self.fs.store, connection.client
        where, token = path.decode("latin-1"), rest[0].decode("latin-1")
        try:
            if message.type == XsType.WATCH:
                store.watch(client, where, token)
            else:
                store.unwatch(client, where, token)
        except StoreError as error:
            if message.type == XsType.WATCH or error.errno != errno.ENOENT:
                raise OSError(error.errno, str(error)) from error
        connection.reply(message, OK)
        if message.type == XsType.WATCH:
            client.event(where, token)

    def release(self) -> None:
        """See OpenFile."""
        super().release()
        self._connection.close()
