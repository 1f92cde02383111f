"""Messages as bytes (xen-interfaces.md 2.1): a codec without any I/O."""

from __future__ import annotations

import struct
from typing import NamedTuple

from xenfs.abi.xs_wire import PAYLOAD_MAX, XsType, error_name

HEADER = struct.Struct("<IIII")


class Garbage(Exception):
    """Bytes that are no message: the connection is of no use any more."""


class Message(NamedTuple):
    """One message."""

    type: int
    request: int
    transaction: int
    payload: bytes

    def emit(self) -> bytes:
        """The bytes."""
        return HEADER.pack(self.type, self.request, self.transaction, len(self.payload)) + self.payload


def event(path: str, token: str) -> bytes:
    """The bytes of a watch event; nothing when they would be too many."""
    payload = b"%b\0%b\0" % (path.encode("latin-1"), token.encode("latin-1"))
    return Message(XsType.WATCH_EVENT, 0, 0, payload).emit() if len(payload) <= PAYLOAD_MAX else b""


def refusal(message: Message, code: int) -> bytes:
    """The bytes of the answer that refuses a request."""
    return Message(XsType.ERROR, message.request, message.transaction, error_name(code).encode() + b"\0").emit()


class Decoder:
    """Takes bytes as they dribble in; gives messages as soon as they are whole."""

    def __init__(self) -> None:
        """Begin between two messages."""
        self._data, self._at = b"", 0

    @property
    def pending(self) -> int:
        """Bytes that have not been given."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._data = self._data[self._at :] + data if self.pending else data
        self._at = 0

    def next(self) -> Message | None:
        """The next message that is whole. Raises Garbage at a header that no message may have."""
        if self.pending < HEADER.size:
            return None
        kind, request, transaction, size = HEADER.unpack_from(self._data, self._at)
        if size > PAYLOAD_MAX:
            message = f"a message of {size} bytes, at most {PAYLOAD_MAX}"
            raise Garbage(message)
        begin = self._at + HEADER.size
        if len(self._data) < begin + size:
            return None
        self._at = begin + size
        return Message(kind, request, transaction, self._data[begin : self._at])
