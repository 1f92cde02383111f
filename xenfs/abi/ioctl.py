"""Numbers of ioctls: Xen's own, which carry no direction, and the twins that do.

Xen declares its ioctls `_IOC_NONE` with a size, so a generic layer sees an address and no data. Every device of xenfs
takes two numbers for each call: Xen's own, and the twin with both direction bits, whose bytes are copied for us.
"""

from __future__ import annotations

from dataclasses import dataclass

NONE, WRITE, READ = 0, 1, 2
MAX_SIZE = (1 << 14) - 1
"""Bytes that the size field of a number can say."""


def number(direction: int, letter: str, nr: int, size: int) -> int:
    """`_IOC(direction, letter, nr, size)` of asm-generic/ioctl.h."""
    if not 0 <= size <= MAX_SIZE:
        message = f"ioctl {letter!r},{nr}: size {size} is not from 0 to {MAX_SIZE}"
        raise ValueError(message)
    return direction << 30 | size << 16 | ord(letter) << 8 | nr


@dataclass(frozen=True, slots=True)
class Ioctl:
    """One call of a device: its C name, letter and number, and the bytes of its fixed part."""

    c_name: str
    letter: str
    nr: int
    size: int

    @property
    def native(self) -> int:
        """Xen's own number: no direction, the struct is at the caller's address."""
        return number(NONE, self.letter, self.nr, self.size)

    def twin(self, size: int | None = None) -> int:
        """The number with direction bits, for `size` bytes (a variable tail makes a call larger than its fixed part).

        A call without data has one number only.
        """
        size = self.size if size is None else size
        return number(READ | WRITE if size else NONE, self.letter, self.nr, size)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The parts of an ioctl number that arrived at a device."""

    direction: int
    letter: str
    nr: int
    size: int


def decode(cmd: int) -> Decoded:
    """Take a number apart; only the low 32 bits count."""
    return Decoded(cmd >> 30 & 3, chr(cmd >> 8 & 0xFF), cmd & 0xFF, cmd >> 16 & MAX_SIZE)
