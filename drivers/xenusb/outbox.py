"""Bytes on their way into a socket that does not always take them at once."""

from __future__ import annotations

import select
import socket
from collections import deque

from xenfs.xenbus.loop import Call, Gate, Loop


class Outbox:
    """What is to be sent, in its order."""

    def __init__(self, loop: Loop, connection: socket.socket, attempt: Call) -> None:
        """Into a socket that does not block. `attempt` is called when there is room again; it is to call `push`."""
        self._socket = connection
        self._left: deque[memoryview] = deque()
        self.size = 0
        """Bytes that wait."""
        self._writable = select.epoll()  # readable itself when the socket is writable
        self._writable.register(connection, select.EPOLLOUT)
        self._gate = Gate(loop, self._writable.fileno(), attempt)

    def send(self, data: bytes) -> None:
        """Send, now or when there is room. Raises OSError."""
        self._left.append(memoryview(data))
        self.size += len(data)
        if not self._gate.is_open:
            self.push()

    def push(self) -> None:
        """Send what waits, as far as there is room. Raises OSError."""
        while self._left:
            try:
                sent = self._socket.send(self._left[0])
            except BlockingIOError:
                self._gate.open()
                return
            self.size -= sent
            self._left[0] = self._left[0][sent:]
            if not self._left[0]:
                self._left.popleft()
        self._gate.shut()

    def close(self) -> None:
        """Send nothing more."""
        self._gate.shut()
        self._writable.close()
        self._left.clear()
