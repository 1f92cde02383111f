"""A port in memory, for devices without a guest: what a host asks of one, and what became of that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from xenusb.descriptors import CLASS, TO_DEVICE, TO_ENDPOINT, TO_INTERFACE, VENDOR, Ask, Setup
from xenusb.device import Host, Packet, Transfer, UsbDevice

from xenfs.abi.usbif import PipeType, Status
from xenfs.xenbus import Loop
from xenfs.xenbus.loop import Call

SECONDS = 30.0
"""So long may something take before it is known not to happen."""
_TURNS = 10_000
"""A loop that has still something to do after so many is busy for nothing."""
INWARD = 0x80
OF_CLASS = CLASS << 5 | TO_INTERFACE
OF_VENDOR = VENDOR << 5 | TO_DEVICE
"""The first byte of a setup packet, but for its direction."""
HALT = 0
OURS = f"of-{os.getpid()}"
"""For names that nobody else on this machine may have meanwhile."""
D = TypeVar("D", bound=UsbDevice)


class Port:
    """Implements Host, and is the host as well. `ended` are the transfers that are over, in the order of that."""

    device: UsbDevice

    def __init__(self, loop: Loop | None = None) -> None:
        """Empty; with a loop of its own, or that of another port."""
        self.loop = loop or Loop()
        self._owns = loop is None
        self.said: list[str] = []
        self.gone: list[str] = []
        self.ended: list[Transfer] = []
        self.then: dict[Transfer, Call] = {}
        """What happens at the moment at which a transfer is over."""
        self._over: set[Transfer] = set()
        self._plugged: list[UsbDevice] = []

    # Host.

    def attempt(self, call: Call) -> None:
        """See Host."""
        try:
            call()
        except OSError as error:
            self.unplugged(str(error))

    def arrived(self) -> None:
        """See Host."""
        raise AssertionError("it had its speed from the beginning")

    def unplugged(self, why: str) -> None:
        """See Host."""
        self.gone.append(why)

    def say(self, line: str) -> None:
        """See Host."""
        self.said.append(line)

    # The device's life.

    def plug(self, make: Callable[[str, Host], D], argument: str = "", *, configure: bool = True) -> D:
        """Make a device; what is asked from now on, is asked of it. Raises OSError."""
        device = make(argument, self)
        self.device = device
        self._plugged.append(device)
        if configure:
            self.tell(TO_DEVICE, Ask.set_configuration, 1)
        return device

    def unplug(self) -> None:
        """Close all that was plugged in."""
        while self._plugged:
            self._plugged.pop().close()

    def close(self) -> None:
        """Be no more."""
        self.unplug()
        if self._owns:
            self.loop.close()

    # The loop.

    def until(self, happened: Callable[[], bool]) -> None:
        """Turn the loop until something has happened."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            self.loop.turn(0.05)

    def wait(self, transfer: Transfer) -> None:
        """Turn the loop until a transfer is over."""
        self.until(lambda: transfer.over)

    def settle(self) -> None:
        """Turn the loop until it has nothing to do."""
        for _ in range(_TURNS):
            if not self.loop.turn(0):
                return
        raise AssertionError("the loop is busy for nothing")

    # Transfers.

    def make(
        self, kind: PipeType, endpoint: int, data: bytes | int, cuts: Sequence[int] = (), *,
        whole: bool = False, setup: Setup | None = None, packets: Sequence[tuple[int, int]] = (),
    ) -> Transfer:  # fmt: skip
        """A transfer: bytes for the device, or room for so many. `cuts` are the sizes of its views but the last,
        `packets` offsets and lengths.
        """
        left = memoryview(bytearray(data))
        size, views = len(left), []
        for cut in cuts:
            views.append(left[:cut])
            left = left[cut:]
        found = [Packet(*packet) for packet in packets]
        return Transfer(
            kind, endpoint, isinstance(data, int), size, [*views, left], self._done, setup, found, whole
        )  # fmt: skip

    def _done(self, transfer: Transfer) -> None:
        assert transfer.over
        assert transfer not in self._over, "a transfer ends once"
        self._over.add(transfer)
        self.ended.append(transfer)
        if (call := self.then.pop(transfer, None)) is not None:
            call()

    def hand(self, transfer: Transfer) -> None:
        """Give a transfer to the device."""
        self.device.submit(transfer)

    def submit(
        self, kind: PipeType, endpoint: int, data: bytes | int, *cuts: int, whole: bool = False
    ) -> Transfer:  # fmt: skip
        """Ask for a transfer that is neither a control transfer nor isochronous; see `make`."""
        transfer = self.make(kind, endpoint, data, cuts, whole=whole)
        self.hand(transfer)
        return transfer

    def bulk(self, endpoint: int, data: bytes | int, *cuts: int, whole: bool = False) -> Transfer:
        """Ask for a bulk transfer."""
        return self.submit(PipeType.bulk, endpoint, data, *cuts, whole=whole)

    def interrupt(self, endpoint: int, data: bytes | int, *cuts: int) -> Transfer:
        """Ask for an interrupt transfer."""
        return self.submit(PipeType.interrupt, endpoint, data, *cuts)

    def isochronous(
        self, endpoint: int, data: bytes | int, *packets: tuple[int, int], cuts: Sequence[int] = ()
    ) -> Transfer:
        """Ask for an isochronous transfer of packets at offsets, with lengths."""
        transfer = self.make(PipeType.isoc, endpoint, data, cuts, packets=packets)
        self.hand(transfer)
        return transfer

    def control(
        self, kind: int, request: int, value: int = 0, index: int = 0, data: bytes | int = b"", *cuts: int
    ) -> Transfer:
        """Ask for a control transfer, whose direction is that of its data."""
        inward = isinstance(data, int)
        length = data if isinstance(data, int) else len(data)
        setup = Setup(kind | (INWARD if inward else 0), request, value, index, length)
        transfer = self.make(PipeType.control, 0, data, cuts, setup=setup)
        self.hand(transfer)
        assert transfer.over, "control transfers never wait"
        return transfer

    def ask(self, kind: int, request: int, value: int = 0, index: int = 0, size: int = 255) -> bytes:
        """What a device answers to a control request."""
        transfer = self.control(kind, request, value, index, size)
        assert transfer.status is Status.ok
        return got(transfer)

    def tell(self, kind: int, request: int, value: int = 0, index: int = 0, data: bytes = b"") -> None:
        """Have a device do what a control request says."""
        transfer = self.control(kind, request, value, index, data)
        assert (transfer.status, transfer.actual) == (Status.ok, len(data))

    def descriptor(self, kind: int, number: int = 0, size: int = 255) -> bytes:
        """A descriptor of the device."""
        return self.ask(TO_DEVICE, Ask.get_descriptor, kind << 8 | number, 0, size)

    def halted(self, address: int) -> bool:
        """Whether an endpoint says that it is halted."""
        status = self.ask(TO_ENDPOINT, Ask.get_status, 0, address, 2)
        assert status in (b"\0\0", b"\1\0")
        return status == b"\1\0"

    def clear(self, address: int) -> None:
        """Clear the halt of an endpoint."""
        self.tell(TO_ENDPOINT, Ask.clear_feature, HALT, address)


def descriptors() -> int:
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def got(transfer: Transfer) -> bytes:
    """What the device gave."""
    assert transfer.inward
    return transfer.data()[: transfer.actual]
