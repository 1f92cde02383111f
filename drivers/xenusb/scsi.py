"""A disk that speaks SCSI (SPC-3, SBC-3), as far as a stick has to: commands in, data and a sense out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xenblk.disk import Disk

PERIPHERAL_DISK, _REMOVABLE = 0x00, 0x80
_SPC3 = 5
MOST_BLOCKS = 1 << 32
"""What READ(10) reaches; READ(16) reaches more."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Why a command was not carried out: key, additional code and its qualifier."""

    key: int
    code: int
    qualifier: int = 0

    def emit(self) -> bytes:
        """Fixed format, 18 bytes."""
        return struct.pack("<BBBIB4sBB4x", 0x70, 0, self.key, 0, 10, bytes(4), self.code, self.qualifier)


GOOD = Sense(0, 0)
NO_SUCH_COMMAND = Sense(5, 0x20)
BAD_FIELD = Sense(5, 0x24)
OUT_OF_RANGE = Sense(5, 0x21)
READ_ERROR = Sense(3, 0x11)
WRITE_ERROR = Sense(3, 0x0C)
WRITE_PROTECTED = Sense(7, 0x27)
NO_MEDIUM = Sense(2, 0x3A)


class Failed(Exception):
    """The command was not carried out, and the next REQUEST SENSE says why."""

    def __init__(self, sense: Sense) -> None:
        """With its sense."""
        super().__init__(f"sense {sense.key:x}/{sense.code:02x}/{sense.qualifier:02x}")
        self.sense = sense


@dataclass(frozen=True, slots=True)
class Move:
    """Blocks to be read or written: bytes `offset` to `offset + size` of the disk."""

    offset: int
    size: int
    writes: bool


Flush = object()
"""What the disk has acknowledged is to be on its medium before the answer."""
Outcome = bytes | Move | object


class Scsi:
    """One logical unit."""

    def __init__(self, disk: Disk, vendor: str, product: str, serial: str) -> None:
        """As powered on."""
        self._disk, self._vendor, self._product, self._serial = disk, vendor, product, serial
        self.sense = GOOD
        self.locked = False
        """Whether the host wants the medium to stay (PREVENT ALLOW MEDIUM REMOVAL)."""

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return self._disk.sector_size

    @property
    def blocks(self) -> int:
        """How many there are."""
        return self._disk.size() // self.block

    def _last(self) -> int:
        """The last block. Raises Failed where there is none, as with an image that is empty."""
        if not (blocks := self.blocks):
            raise Failed(NO_MEDIUM)
        return blocks - 1

    def command(self, words: bytes) -> Outcome:
        """What is to be done for a command: bytes to be given, blocks to be moved, or Flush. Raises Failed."""
        handle = _COMMANDS.get(words[0])
        try:
            if handle is None:
                raise Failed(NO_SUCH_COMMAND)
            found = handle(self, words.ljust(16, b"\0"))
        except Failed as failed:
            self.sense = failed.sense
            raise
        self.sense = GOOD
        return found

    def failed(self, *, writes: bool) -> None:
        """Blocks could not be moved."""
        self.sense = WRITE_ERROR if writes else READ_ERROR

    def _test_unit_ready(self, _words: bytes) -> bytes:
        self._last()
        return b""

    def _request_sense(self, words: bytes) -> bytes:
        said, self.sense = self.sense, GOOD
        return said.emit()[: words[4]]

    def _inquiry(self, words: bytes) -> bytes:
        room = struct.unpack_from(">H", words, 3)[0]
        if words[1] & 1:
            return self._vital(words[2])[:room]
        if words[2]:
            raise Failed(BAD_FIELD)
        head = bytes((PERIPHERAL_DISK, _REMOVABLE, _SPC3, 2, 31, 0, 0, 0))
        names = f"{self._vendor[:8]:8}{self._product[:16]:16}{'0001':4}".encode("ascii", "replace")
        return (head + names)[:room]

    def _vital(self, page: int) -> bytes:
        pages = {0x00: bytes((0x00, 0x80)), 0x80: self._serial.encode("ascii", "replace")}
        if page not in pages:
            raise Failed(BAD_FIELD)
        return struct.pack(">BBH", PERIPHERAL_DISK, page, len(pages[page])) + pages[page]

    def _capacity_10(self, _words: bytes) -> bytes:
        return struct.pack(">II", min(self._last(), MOST_BLOCKS - 1), self.block)

    def _service(self, words: bytes) -> bytes:
        if words[1] & 0x1F != 0x10:
            raise Failed(BAD_FIELD)
        room = struct.unpack_from(">I", words, 10)[0]
        return struct.pack(">QI20x", self._last(), self.block)[:room]

    def _format_capacities(self, words: bytes) -> bytes:
        room = struct.unpack_from(">H", words, 7)[0]
        formatted = 2 << 24 | self.block
        return struct.pack(">xxxBII", 8, min(self.blocks, MOST_BLOCKS - 1), formatted)[:room]

    def _mode_sense_6(self, words: bytes) -> bytes:
        pages = self._mode_pages(words[2])
        head = bytes((3 + len(pages), 0, 0x80 if self._disk.readonly else 0, 0))
        return (head + pages)[: words[4]]

    def _mode_sense_10(self, words: bytes) -> bytes:
        pages = self._mode_pages(words[2])
        head = struct.pack(">HBBxxH", 6 + len(pages), 0, 0x80 if self._disk.readonly else 0, 0)
        return (head + pages)[: struct.unpack_from(">H", words, 7)[0]]

    def _mode_pages(self, which: int) -> bytes:
        caching = bytes((0x08, 18, 0x04)) + bytes(17)  # the write cache is on: SYNCHRONIZE CACHE means something
        if which & 0xC0 == 0x40 or which & 0x3F not in (0x08, 0x3F, 0x00):
            return b""
        return caching if which & 0x3F else b""

    def _prevent(self, words: bytes) -> bytes:
        self.locked = bool(words[4] & 1)
        return b""

    def _start_stop(self, _words: bytes) -> bytes:
        return b""

    def _read_6(self, words: bytes) -> Move:
        at, count = struct.unpack(">I", words[:4])[0] & 0x1FFFFF, words[4] or 256
        return self._move(at, count, writes=False)

    def _write_6(self, words: bytes) -> Move:
        at, count = struct.unpack(">I", words[:4])[0] & 0x1FFFFF, words[4] or 256
        return self._move(at, count, writes=True)

    def _move_10(self, words: bytes) -> Move:
        at, count = struct.unpack_from(">IxH", words, 2)
        return self._move(at, count, writes=words[0] == 0x2A)

    def _move_12(self, words: bytes) -> Move:
        at, count = struct.unpack_from(">II", words, 2)
        return self._move(at, count, writes=words[0] == 0xAA)

    def _move_16(self, words: bytes) -> Move:
        at, count = struct.unpack_from(">QI", words, 2)
        return self._move(at, count, writes=words[0] == 0x8A)

    def _move(self, at: int, count: int, *, writes: bool) -> Move:
        if at + count > self.blocks:
            raise Failed(OUT_OF_RANGE)
        if writes and self._disk.readonly:
            raise Failed(WRITE_PROTECTED)
        return Move(at * self.block, count * self.block, writes)

    def _verify(self, words: bytes) -> bytes:
        at, count = struct.unpack_from(">IxH", words, 2)
        if words[1] & 0x02:
            raise Failed(BAD_FIELD)
        self._move(at, count, writes=False)
        return b""

    def _synchronize(self, _words: bytes) -> object:
        return Flush


_COMMANDS: Mapping[int, Callable[[Scsi, bytes], Outcome]] = {
    0x00: Scsi._test_unit_ready,
    0x03: Scsi._request_sense,
    0x08: Scsi._read_6,
    0x0A: Scsi._write_6,
    0x12: Scsi._inquiry,
    0x1A: Scsi._mode_sense_6,
    0x1B: Scsi._start_stop,
    0x1E: Scsi._prevent,
    0x23: Scsi._format_capacities,
    0x25: Scsi._capacity_10,
    0x28: Scsi._move_10,
    0x2A: Scsi._move_10,
    0x2F: Scsi._verify,
    0x35: Scsi._synchronize,
    0x5A: Scsi._mode_sense_10,
    0x88: Scsi._move_16,
    0x8A: Scsi._move_16,
    0x91: Scsi._synchronize,
    0x9E: Scsi._service,
    0xA8: Scsi._move_12,
    0xAA: Scsi._move_12,
}
