"""A device that sends back what it gets, by every kind of transfer: `loopback:`, for tests of whoever moves bytes.

Isochronous packets come back in their order; one that begins with the bytes `lost` comes back as an error, one that
begins with `long` as one byte more than there is room for. Its interface has the endpoints in setting 1, none in 0.
"""

from __future__ import annotations

from collections import deque

from xenfs.abi.usbif import PipeType, Speed
from xenusb.descriptors import VENDOR, Endpoint, Interface, Setup
from xenusb.device import Host
from xenusb.gadget import About, Gadget, Stall

BULK, INTERRUPT, ISOC = 1, 2, 3
STORE, FETCH, HALT = 1, 2, 3
"""Requests of the vendor: keep bytes, give them back, halt both bulk endpoints."""
_MOST = 64
_ENDS = tuple(
    Endpoint(number, inward, kind, size, interval)
    for number, kind, size, interval in (
        (BULK, PipeType.bulk, 512, 0),
        (INTERRUPT, PipeType.interrupt, 64, 4),
        (ISOC, PipeType.isoc, 1024, 1),
    )
    for inward in (True, False)
)


class Loopback(Gadget):
    """The device."""

    speed = Speed.high
    about = About(0x1209, 0x5857, "xenfs", "Loopback", "1")
    interfaces = (Interface(0, 0xFF), Interface(0, 0xFF, alternate=1, endpoints=_ENDS))

    def __init__(self, argument: str, host: Host) -> None:
        """Plug it in."""
        super().__init__(argument, host)
        self._kept = b""
        self._queues: dict[int, deque[bytes]] = {}
        self.restarted()

    def restarted(self) -> None:
        """See Gadget."""
        self._queues = {number: deque() for number in (BULK, INTERRUPT, ISOC)}

    def control(self, setup: Setup, data: bytes) -> bytes:
        """See Gadget."""
        if setup.kind != VENDOR or setup.request not in (STORE, FETCH, HALT):
            raise Stall
        if setup.request == FETCH:
            return self._kept
        if setup.request == STORE:
            self._kept = data
        else:
            self.halt(BULK, inward=True)
            self.halt(BULK, inward=False)
        return b""

    def take(self, endpoint: int, data: bytes) -> bool:
        """See Gadget."""
        queue = self._queues[endpoint]
        if len(queue) >= _MOST:
            return False
        queue.append(data)
        self.host.loop.later(0, lambda: self.host.attempt(lambda: self.ready(endpoint, inward=True)))
        return True

    def give(self, endpoint: int, size: int) -> bytes | None:
        """See Gadget."""
        queue = self._queues[endpoint]
        if not queue:
            return None
        data = queue.popleft()
        if len(data) > size:
            queue.appendleft(data[size:])
        self.host.loop.later(0, lambda: self.host.attempt(lambda: self.ready(endpoint, inward=False)))
        return data[:size]

    def packet_out(self, endpoint: int, data: bytes) -> None:
        """See Gadget."""
        if len(self._queues[ISOC]) < _MOST:
            self._queues[ISOC].append(data)

    def packet_in(self, endpoint: int, size: int) -> bytes | None:
        """See Gadget."""
        queue = self._queues[ISOC]
        data = queue.popleft() if queue else b""
        if data.startswith(b"lost"):
            return None
        return bytes(size + 1) if data.startswith(b"long") else data[:size]
