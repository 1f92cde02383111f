"""Packets into a file that tcpdump and Wireshark read (pcapng, draft-ietf-opsawg-pcapng), to the nanosecond.

    section header       once: byte order and version
    interface            one for each: Ethernet, its name, nanoseconds
    enhanced packet      interface, time, bytes, and which way it went

Blocks are padded to four bytes, and have their length at both ends.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Protocol

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER = 0x1A2B3C4D
ETHERNET = 1
IF_NAME, IF_TSRESOL, EPB_FLAGS, EPB_DROPCOUNT = 2, 9, 2, 4
INBOUND, OUTBOUND = 1, 2
"""The lowest two bits of epb_flags, as the interface sees it."""

_NANOSECONDS = b"\x09"
_SECTION = struct.Struct("<IHHq")
_INTERFACE = struct.Struct("<HHI")
_PACKET = struct.Struct("<IIIII")
_FLAGS = struct.Struct("<HHI")
_DROPPED = struct.Struct("<HHQ")
_OPTION = struct.Struct("<HH")
_ENDS = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_MOST = (1 << 16) - 1

assert (_SECTION.size, _INTERFACE.size, _PACKET.size, _FLAGS.size) == (16, 8, 20, 8)


class Sink(Protocol):
    """Where a capture goes, such as a binary file."""

    def write(self, data: bytes, /) -> Any:
        """Take all of it."""

    def flush(self) -> Any:
        """Let readers see it."""


class Writer:
    """A capture file. Each call writes a whole block and flushes, so that a reader may follow the file as it grows."""

    def __init__(self, file: Sink, interfaces: Sequence[str]) -> None:
        """Write the head, for `interfaces` by name; packets name them by their place in it.

        The file stays the caller's. Raises ValueError for no interfaces, or a name too long for an option.
        """
        if not interfaces:
            raise ValueError("a capture needs at least one interface")
        self._file, self._count = file, len(interfaces)
        head = [_block(SECTION, _SECTION.pack(BYTE_ORDER, 1, 0, -1))]
        for name in interfaces:
            options = _option(IF_NAME, name.encode()) + _option(IF_TSRESOL, _NANOSECONDS) + _OPTION.pack(0, 0)
            head.append(_block(INTERFACE, _INTERFACE.pack(ETHERNET, 0, 0) + options))
        self._write(b"".join(head))

    def packet(
        self,
        interface: int,
        time_ns: int,
        pieces: Sequence[bytes | memoryview],
        length: int,
        outbound: bool,
        dropped: int = 0,
    ) -> None:
        """One frame, in as many pieces as it lies in; they are copied once, so they may be shared with a peer.

        `length` is the frame's own, when only its beginning is given; `time_ns` counts from 1970; `dropped` frames are
        missing before this one. Raises ValueError for an interface that the file has not.
        """
        if not 0 <= interface < self._count:
            raise ValueError(f"interface {interface} is not one of the {self._count} of this capture")
        data = b"".join(pieces)
        size = len(data)
        head = _PACKET.pack(interface, time_ns >> 32 & 0xFFFF_FFFF, time_ns & 0xFFFF_FFFF, size, max(size, length))
        options = _FLAGS.pack(EPB_FLAGS, 4, OUTBOUND if outbound else INBOUND)
        if dropped:
            options += _DROPPED.pack(EPB_DROPCOUNT, 8, dropped)
        self._write(_block(PACKET, b"".join((head, data, bytes(-size % 4), options, _OPTION.pack(0, 0)))))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()


def _block(kind: int, body: bytes) -> bytes:
    """A block, whose `body` is padded already."""
    total = len(body) + 12
    return _ENDS.pack(kind, total) + body + _LENGTH.pack(total)


def _option(code: int, value: bytes) -> bytes:
    if len(value) > _MOST:
        raise ValueError(f"an option of {len(value)} bytes: at most {_MOST}")
    return _OPTION.pack(code, len(value)) + value + bytes(-len(value) % 4)
