"""The store's doors as raw clients: the Unix socket, and dev/xenbus."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

from tests.unit.store import Said, messages, told
from xenfs.abi.xs_wire import XsType
from xenfs.xenstore.wire import HEADER, Message

SECONDS = 10.0


def connect(root: Path) -> socket.socket:
    """The socket of a mount; by its folder, since the path may be too long for an address."""
    folder = os.open(root.parent, os.O_PATH)
    try:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(SECONDS)
        client.connect(f"/proc/self/fd/{folder}/{root.name}.sock")
        client.settimeout(None)
        return client
    finally:
        os.close(folder)


class Door:
    """One connection, by whichever descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd, self._rest = fd, b""

    @classmethod
    def socket(cls, root: Path) -> Door:
        return cls(connect(root).detach())

    @classmethod
    def device(cls, home: Path) -> Door:
        return cls(os.open(home / "dev" / "xenbus", os.O_RDWR))

    def send(self, kind: int, payload: bytes, tx: int = 0) -> None:
        os.write(self.fd, Message(kind, 7, tx, payload).emit())

    def message(self, seconds: float = SECONDS) -> Message | None:
        """The next message; None when none comes in that time."""
        while True:
            if len(self._rest) >= HEADER.size:
                *_, size = HEADER.unpack_from(self._rest)
                end = HEADER.size + size
                if len(self._rest) >= end:
                    (found,) = messages(self._rest[:end])
                    self._rest = self._rest[end:]
                    return found
            if not select.select([self.fd], [], [], seconds)[0]:
                return None
            data = os.read(self.fd, 4096)
            if not data:
                raise EOFError
            self._rest += data

    def heard(self, seconds: float = 0) -> Said:
        """All that has come."""
        said: Said = []
        while (message := self.message(seconds)) is not None:
            said += told(message.emit())
        return said

    def ask(self, kind: int, payload: bytes, tx: int = 0) -> bytes:
        """The payload of the answer, or the errno's name. Events are dropped."""
        self.send(kind, payload, tx)
        while (message := self.message()) is not None and message.type == XsType.WATCH_EVENT:
            pass
        assert message is not None
        assert message.request == 7
        return message.payload.rstrip(b"\0") if message.type == XsType.ERROR else message.payload

    def close(self) -> None:
        os.close(self.fd)
