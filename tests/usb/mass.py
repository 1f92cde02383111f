"""A host with a driver for sticks, and what it says to one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xenusb import stick
from xenusb.bulk_only import PASSED, RESET, STATUS, Command, Outcome
from xenusb.device import Transfer
from xenusb.stick import Stick

from tests.usb.gadgets import LIMIT
from tests.usb.port import OF_CLASS, Port, got
from xenfs.abi.usbif import Status

IN, OUT = stick.IN, stick.OUT
READY, SENSE, INQUIRY = bytes(6), bytes((3, 0, 0, 0, 18, 0)), bytes((0x12, 0, 0, 0, 36, 0))
SYNCHRONIZE = b"\x35".ljust(10, b"\0")
OUT_OF_RANGE, WRITE_PROTECTED, READ_ERROR, WRITE_ERROR = (5, 0x21, 0), (7, 0x27, 0), (3, 0x11, 0), (3, 0x0C, 0)
NEW = bytes(range(256)) * 16
"""As much as the image has, and none of it."""


def read(at: int, count: int) -> bytes:
    """READ (10) of blocks."""
    return struct.pack(">BxIxHx", 0x28, at, count)


def write(at: int, count: int) -> bytes:
    """WRITE (10) of blocks."""
    return struct.pack(">BxIxHx", 0x2A, at, count)


@dataclass
class Ran:
    """What became of a command."""

    verdict: int
    residue: int = 0
    data: bytes = b""


class Mass:
    """A host with a driver for sticks: a step is taken when the one before is over."""

    def __init__(self, port: Port, path: Path, word: str = "") -> None:
        self.port, self.path, self.tag = port, path, 0
        self.stick = port.plug(Stick, f"{path}{word}")

    def command(self, words: bytes, size: int = 0, *, inward: bool = True) -> Transfer:
        """Send a command, and nothing after it."""
        self.tag += 1
        return self.port.bulk(OUT, Command(self.tag, size, inward, 0, words).emit(), 15)

    def status(self) -> Outcome:
        """Have the status, clearing the endpoint when that is halted (figure 2)."""
        for _ in range(2):
            transfer = self.port.bulk(IN, STATUS.size)
            self.port.wait(transfer)
            if transfer.status is not Status.stall:
                break
            self.port.clear(0x81)
        outcome = Outcome.parse(got(transfer))
        assert outcome is not None
        assert outcome.tag == self.tag
        return outcome

    def run(
        self, words: bytes, size: int = 0, sent: bytes | None = None, *, piece: int = LIMIT, cuts: Sequence[int] = ()
    ) -> Ran:
        """Have a command carried out, with `size` bytes expected or those of `sent` given, in transfers of `piece`."""
        size = size if sent is None else len(sent)
        assert self.command(words, size, inward=sent is None).status is Status.ok
        found = b""
        for at in range(0, size, piece):
            part = min(piece, size - at)
            if sent is None:
                transfer = self.port.bulk(IN, part, *cuts)
            else:
                transfer = self.port.bulk(OUT, sent[at : at + part], *cuts)
            self.port.wait(transfer)
            if transfer.status is Status.stall:
                self.port.clear(transfer.address)
                break
            assert transfer.status is Status.ok
            found += got(transfer) if sent is None else b""
            if transfer.actual < part:
                break
        outcome = self.status()
        return Ran(outcome.status, outcome.residue, found)

    def sense(self) -> tuple[int, int, int]:
        """Why the last command failed."""
        ran = self.run(SENSE, 18)
        assert (ran.verdict, ran.residue) == (PASSED, 0)
        return ran.data[2], ran.data[12], ran.data[13]

    def recover(self) -> None:
        """Reset recovery (5.3.4)."""
        self.port.tell(OF_CLASS, RESET)
        self.port.clear(0x81)
        self.port.clear(0x02)

    def works(self) -> None:
        """All is well."""
        blocks = self.path.stat().st_size // 512
        assert self.run(read(0, blocks), blocks * 512) == Ran(PASSED, 0, self.path.read_bytes()[: blocks * 512])
