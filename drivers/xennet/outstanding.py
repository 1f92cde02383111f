"""What netfront has asked to be sent and not yet been answered: pages of a circle, used and freed in that order.

Answers that come in order are compared with what is expected as bytes, all at once. Others are looked at one by one,
until nothing is outstanding any more.
"""

from __future__ import annotations

import struct

from xenfs.abi.netif import TX, Status

_NULL, _OKAY = int(Status.null), int(Status.okay)
_NULL_WORD = int.from_bytes(TX.response.pack(0, _NULL), "little")


class InactiveError(Exception):
    """An answer to what was not asked; the text says what."""


class Outstanding:
    """The pages in flight, from `tail`, and the extra slots among them."""

    def __init__(self, count: int) -> None:
        """A circle of `count` pages, numbered from 0, which are also the ids of requests."""
        self._count = count
        self.tail = self.used = 0
        self._nulls = 0
        self._okay = b"".join(TX.response.pack(number, _OKAY) for number in range(count)) * 2
        self._null = TX.response.pack(0, _NULL)
        self._expected: bytearray | None = bytearray()
        self._late: set[int] = set()

    @property
    def free(self) -> int:
        """Pages that are free."""
        return self._count - self.used

    def sent(self, pages: int, *, extra: bool) -> None:
        """The next pages are in flight, with an extra slot behind the first."""
        if self._expected is not None:
            head = (self.tail + self.used) % self._count * 4
            okay = self._okay[head : head + 4 * pages]
            self._expected += okay[:4] + self._null + okay[4:] if extra else okay
        self._nulls += extra
        self.used += pages

    def answered(self, data: bytes) -> int:
        """Take answers; how many of them say that a packet was not sent. Raises InactiveError."""
        expected = self._expected
        if expected is not None and expected.startswith(data):
            del expected[: len(data)]
            nulls = memoryview(data).cast("I").tolist().count(_NULL_WORD) if self._nulls else 0
            self._nulls -= nulls
            self._free(len(data) // 4 - nulls)
            return 0
        self._expected = None
        errors = sum(self._one(number, status) for number, status in TX.response.iter_unpack(data))
        freed = 0
        while freed < self.used and (number := (self.tail + freed) % self._count) in self._late:
            self._late.discard(number)
            freed += 1
        self._free(freed)
        if not self.used and not self._nulls:
            self._expected = bytearray()
        return errors

    def _free(self, pages: int) -> None:
        self.tail = (self.tail + pages) % self._count
        self.used -= pages

    def _one(self, number: int, status: int) -> bool:
        if status == _NULL:
            if not self._nulls:
                raise InactiveError("a null response, and no extra slot is in flight")
            self._nulls -= 1
            return False
        if number >= self._count or number in self._late or (number - self.tail) % self._count >= self.used:
            raise InactiveError(f"response for inactive request {number}")
        self._late.add(number)
        return status != _OKAY


assert TX.response.size == struct.calcsize("I")
