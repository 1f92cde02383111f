"""What one connection has asked for and not been answered, and what it wants back of that.

A transfer that is taken back in time is answered by the answer to the unlink alone; one that was over before, by both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xenfs.abi.usbif import Status
from xenusb import usbip
from xenusb.urbs import Urbs, Want
from xenusb.usbip import Code, Malformed, Short, Submit, Submitted

_MOST_FLYING, _MOST_BYTES = 1024, 16 << 20
"""Transfers of one connection, and their bytes."""


@dataclass(slots=True)
class _Flight:
    """One transfer."""

    size: int
    want: Want | None = None
    """None for one that cannot be taken back."""
    unlink: int | None = None
    """The number of the request to take it back."""


class Flights:
    """The transfers of one connection, by number."""

    def __init__(self, urbs: Urbs, send: Callable[[bytes], None]) -> None:
        """None yet. Answers go to `send`."""
        self._urbs, self._send = urbs, send
        self._flying: dict[int, _Flight] = {}
        self._bytes = 0

    def check(self, asked: Submit) -> None:
        """Raises Malformed when there is one of its number."""
        if asked.number in self._flying:
            raise Malformed(f"transfer {asked.number} twice at once")

    def has_room(self, asked: Submit) -> bool:
        """Whether there may be another, of its size."""
        return len(self._flying) < _MOST_FLYING and self._bytes + asked.size <= _MOST_BYTES

    def refuse(self, asked: Submit, status: int) -> None:
        """Answer what never flies."""
        self._send(Submitted(asked.number, status, 0).emit())

    def begin(self, asked: Submit, size: int = 0) -> None:
        """Remember one, which cannot be taken back before it flies; `size` is what it counts for."""
        self._flying[asked.number] = _Flight(size)
        self._bytes += size

    def fly(self, asked: Submit, want: Want) -> None:
        """Ask the device, with the next push; for one in pieces it is asked again."""
        if asked.number not in self._flying:
            self.begin(asked, asked.size)
        self._flying[asked.number].want = want
        self._urbs.submit(want)

    def unwanted(self, asked: Submit) -> bool:
        """Whether it is wanted back."""
        return self._flying[asked.number].unlink is not None

    def wake(self, asked: Submit) -> bool:
        """One that has only waited does so no more: whether it is still wanted, and may begin."""
        unlink = self._forget(asked)
        if unlink is not None:
            self._unlinked(unlink, usbip.ECONNRESET)
        return unlink is None

    def finish(self, asked: Submit, want: Want, data: bytes, actual: int) -> None:
        """The device has answered."""
        if want.packets:
            actual = sum(one.actual for one in want.packets)
        packets = tuple(want.packets)
        said = Submitted(asked.number, int(want.status), actual, data, asked.start_frame, want.errors, packets)
        self.answer(asked, said, in_time=want.status is Status.shutdown)

    def answer(self, asked: Submit, said: Submitted, *, in_time: bool = False) -> None:
        """It is over; `in_time` means that an unlink, if there is one, has ended it."""
        unlink = self._forget(asked)
        if unlink is not None and in_time:
            self._unlinked(unlink, usbip.ECONNRESET)
            return
        self._send(said.emit())
        if unlink is not None:
            self._unlinked(unlink, 0)

    def _forget(self, asked: Submit) -> int | None:
        flight = self._flying.pop(asked.number)
        self._bytes -= flight.size
        return flight.unlink

    def _unlinked(self, number: int, status: int) -> None:
        self._send(Short(Code.unlinked, number, status).emit())

    def unlink(self, asked: Short) -> None:
        """Take one back, if it is there and has not been taken back before."""
        flight = self._flying.get(asked.value)
        if flight is None or flight.unlink is not None:
            self._unlinked(asked.number, 0)
            return
        flight.unlink = asked.number
        if flight.want is not None:
            self._urbs.cancel(flight.want)

    def take_back(self) -> None:
        """Take back everything that can be."""
        for want in [flight.want for flight in self._flying.values()]:
            if want is not None:
                self._urbs.cancel(want)
