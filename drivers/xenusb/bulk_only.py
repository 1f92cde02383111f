"""What goes over a stick's two pipes (USB Mass Storage Class, Bulk-Only Transport 1.0): a command, data, a status."""

from __future__ import annotations

import struct
from dataclasses import dataclass

COMMAND, STATUS = struct.Struct("<IIIBBB16s"), struct.Struct("<IIIB")
_COMMAND_SIGNATURE, _STATUS_SIGNATURE = 0x43425355, 0x53425355
KLASS, SUBCLASS, PROTOCOL = 8, 6, 0x50
"""Mass storage, SCSI, bulk-only."""
RESET, GET_MAX_LUN = 0xFF, 0xFE
PASSED, FAILED, PHASE_ERROR = 0, 1, 2

assert (COMMAND.size, STATUS.size) == (31, 13)


@dataclass(frozen=True, slots=True)
class Command:
    """The wrapper of a command: `size` bytes are to follow, from the device or to it."""

    tag: int
    size: int
    inward: bool
    lun: int
    words: bytes

    @classmethod
    def parse(cls, data: bytes) -> Command | None:
        """None for what is no valid and meaningful one (6.2)."""
        if len(data) != COMMAND.size:
            return None
        signature, tag, size, flags, lun, length, words = COMMAND.unpack(data)
        if signature != _COMMAND_SIGNATURE or lun > 15 or not 1 <= length <= 16:
            return None
        return cls(tag, size, bool(flags & 0x80), lun, words[:length])

    def emit(self) -> bytes:
        """The 31 bytes."""
        flags = 0x80 if self.inward else 0
        return COMMAND.pack(_COMMAND_SIGNATURE, self.tag, self.size, flags, self.lun, len(self.words), self.words)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The wrapper of a status: `residue` of the bytes that were to follow did not matter."""

    tag: int
    residue: int
    status: int

    @classmethod
    def parse(cls, data: bytes) -> Outcome | None:
        """None for what is none."""
        if len(data) != STATUS.size:
            return None
        signature, tag, residue, status = STATUS.unpack(data)
        return cls(tag, residue, status) if signature == _STATUS_SIGNATURE and status <= PHASE_ERROR else None

    def emit(self) -> bytes:
        """The 13 bytes."""
        return STATUS.pack(_STATUS_SIGNATURE, self.tag, self.residue, self.status)
