"""What is in a port: the Protocol of a device, and a transfer, which is what it is asked for.

A device lives in usbback's loop, never waits, and ends every transfer that it is given exactly once, sooner or later:
in `submit`, or when it has something to say, or in `cancel`, `reset` or `close`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from xenfs.abi.usbif import PipeType, Speed, Status
from xenfs.xenbus import Loop
from xenfs.xenbus.loop import Call
from xenusb.descriptors import Setup


@dataclass(slots=True)
class Packet:
    """One packet of an isochronous transfer: `offset` and `length` in its buffer; the rest is the answer."""

    offset: int
    length: int
    actual: int = 0
    status: int = Status.ok


@dataclass(slots=True, eq=False)
class Transfer:
    """What the host wants of an endpoint. `views` are `size` bytes: the guest's own pages, which it may change at any
    moment, so that what is to be checked is copied first. `setup` is that of a control transfer.
    """

    type: PipeType
    endpoint: int
    inward: bool
    size: int
    views: Sequence[memoryview]
    done: Callable[[Transfer], None]
    setup: Setup | None = None
    packets: list[Packet] = field(default_factory=list)
    whole: bool = False
    """Whether less than all is an error."""
    status: Status = Status.ok
    actual: int = 0
    over: bool = False

    @property
    def address(self) -> int:
        """As in bEndpointAddress."""
        return self.endpoint | (0x80 if self.inward else 0)

    def data(self) -> bytes:
        """A copy of what the host sends."""
        return b"".join(self.views)

    def fill(self, data: bytes) -> int:
        """Give the host bytes, as many as it has room for; how many that were."""
        at, left = 0, memoryview(data)[: self.size]
        for view in self.views:
            part = left[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        return len(left)

    def end(self, status: Status = Status.ok, actual: int = 0) -> None:
        """It is over; a second end is none."""
        if self.over:
            return
        self.over = True
        if status is Status.ok and self.whole and self.inward and actual < self.size:
            status = Status.ioerror
        self.status, self.actual = status, max(0, min(actual, self.size))
        self.done(self)

    def answer(self, data: bytes) -> None:
        """Give the host bytes, and be done."""
        self.end(Status.ok, self.fill(data))


class Host(Protocol):
    """What a device has of the port that it is in."""

    @property
    def loop(self) -> Loop:
        """That of usbback."""

    def attempt(self, call: Call) -> None:
        """Call what may raise OSError, which unplugs the device; for everything that a loop calls."""

    def arrived(self) -> None:
        """The device is there, and has its speed now: for one that was made without."""

    def unplugged(self, why: str) -> None:
        """The device has gone, of its own accord."""

    def say(self, line: str) -> None:
        """For the log."""


class UsbDevice(Protocol):
    """A device. It is made by calling its class with an argument, a text, and a Host; that raises OSError with what is
    wrong, and the device is then as good as absent. One that cannot tell its speed at once has Speed.none until it says
    `arrived`.
    """

    speed: Speed

    def submit(self, transfer: Transfer) -> None:
        """Do what the host asks. SET_ADDRESS never comes here."""

    def cancel(self, transfer: Transfer) -> None:
        """The host does not want it any more: end it with Status.shutdown, unless it is over."""

    def reset(self) -> None:
        """As just plugged in, without a configuration; what was asked for ends with Status.shutdown."""

    def close(self) -> None:
        """It is unplugged; what was asked for ends with Status.nodev."""
