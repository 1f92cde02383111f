"""The rings of a backend without scruples, against the real usbfront: what it answers there."""

from __future__ import annotations

import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from xenusb.descriptors import Ask, Setup

from tests.hostile.peer import SECONDS
from tests.hostile.peer_back import FrontHost, PeerBack
from tests.hostile.usb_liars import Answer, Gizmo
from tests.mounted.mount import until
from xenfs.abi.usbif import CONN, FRAME, UNLINK, URB, PipeType, Status, Urb
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry
from xenfs.testing.peers import MockBack
from xenfs.xenbus import Device

Lie = Callable[[Urb, Entry], Sequence[Entry]]


class UsbRings(PeerBack):
    """Devices in ports, and both rings. They answer while they are told to serve, honestly where `lie` does not say
    otherwise."""

    ring: MockBack
    plugs: MockBack

    def __init__(self, host: FrontHost, device: Device, front: subprocess.Popen[bytes]) -> None:
        super().__init__(host, device, front)
        self.devices: dict[int, Gizmo] = {}
        self.lie: Lie = lambda _urb, answer: [answer]
        self.asked: deque[Urb] = deque(maxlen=4096)
        """What was asked for."""
        self.left: dict[int, Urb] = {}
        """What was not answered."""
        self.deaf = False
        """Whether requests to take another back are not answered either."""
        self._addresses: dict[int, int] = {}
        self._pages: dict[int, memoryview] = {}

    def say(self) -> None:
        """Offer, and map what the frontend shares."""
        self.set_state(S.InitWait)
        self.until_state(S.Connected)
        self._pages.clear()
        urbs, plugs = self.map("urb-ring-ref"), self.map("conn-ring-ref")
        self.ring = self.held.enter_context(MockBack(urbs, URB, lambda *_: None))
        self.plugs = self.held.enter_context(MockBack(plugs, CONN, lambda *_: None))
        self.channel = self.bind("event-channel")

    # The ring of plugs.

    def plug(self, port: int, device: Gizmo) -> None:
        """Put a device into a port, and tell."""
        self.devices[port] = device
        self._addresses[port] = 0
        self.tell((port, device.speed))

    def unplug(self, port: int) -> None:
        """Take it out."""
        self.devices.pop(port, None)
        self.tell((port, 0))

    def tell(self, *news: tuple[int, int]) -> None:
        """Ports and speeds, as they are."""
        for port, speed in news:
            self.respond_plug(port, speed)
        self.plugs.publish()
        self.channel.notify()

    def respond_plug(self, port: int, speed: int, number: int | None = None) -> None:
        """Use up a request, when there is one; with another id than its own perhaps."""
        found: list[Entry] = []

        def there() -> bool:
            found.extend(self.plugs.ring.take(1))
            return bool(found)

        if not there():
            self.plugs.publish()
            self.channel.notify()
            until(there, SECONDS)
        self.plugs.ring.respond(found[0][0] if number is None else number, port, speed)

    # The ring of transfers.

    def work(self) -> bool:
        """Answer what there is; whether there was something."""
        entries = self.ring.ring.take()
        for entry in entries:
            urb = Urb.parse(entry)
            self.asked.append(urb)
            self.answer(*self._answers(urb))
        return bool(entries)

    def answer(self, *entries: Entry) -> None:
        """Responses, for requests that have been taken."""
        if entries:
            self.ring.ring.respond_many(entries)
            self.ring.publish()
            self.channel.notify()

    def _answers(self, urb: Urb) -> Sequence[Entry]:
        if urb.pipe.unlink:
            return self._unlinked(urb)
        said = self._said(urb)
        if said is None:
            self.left[urb.id] = urb
            return ()
        if isinstance(said, Status):
            return self.lie(urb, (urb.id, 0, int(said), 0, 0))
        if urb.pipe.inward:
            self.put(urb, said)
        return self.lie(urb, (urb.id, 0, 0, len(said), 0))

    def _unlinked(self, urb: Urb) -> Sequence[Entry]:
        if self.deaf:
            return ()
        (number,) = UNLINK.unpack(urb.special)
        victim = self.left.pop(number, None)
        if victim is None:
            return self.lie(urb, (urb.id, 0, int(Status.inval), 0, 0))
        return [(number, 0, int(Status.shutdown), 0, 0), *self.lie(urb, (urb.id, 0, 0, 0, 0))]

    def _said(self, urb: Urb) -> Answer:
        port = urb.pipe.port
        device, setup = self.devices.get(port), Setup.parse(urb.special)
        if device is None or urb.pipe.address not in (0, self._addresses[port]):
            return Status.nodev
        if urb.pipe.type is not PipeType.control:
            return device.transfer(urb, b"" if urb.pipe.inward else self.got(urb))
        if not urb.pipe.address:
            self._addresses[port] = 0
        if setup.is_standard(Ask.set_address):
            self._addresses[port] = setup.value
            return b""
        return device.control(setup)

    def _parts(self, segments: Iterable[tuple[int, int, int]]) -> Iterator[memoryview]:
        for ref, offset, length in segments:
            if ref not in self._pages:
                self._pages[ref] = self.held.enter_context(self.root.memory.map(self.domid, [ref]))
            yield self._pages[ref][offset : offset + length]

    def put(self, urb: Urb, data: bytes) -> None:
        """Into the pages of a request."""
        for part in self._parts(urb.data):
            part[: len(data)] = data[: len(part)]
            data = data[len(part) :]

    def got(self, urb: Urb) -> bytes:
        """Out of them."""
        return b"".join(self._parts(urb.data))

    def describe(self, urb: Urb, packets: Iterable[tuple[int, int]]) -> None:
        """Say of each packet how many bytes it had, and its status."""
        (view,) = self._parts(urb.frames)
        for number, (actual, status) in enumerate(packets):
            offset, length, _, _ = FRAME.unpack_from(view, number * FRAME.size)
            FRAME.pack_into(view, number * FRAME.size, offset, length, actual, status)

    def serve_until(self, over: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Answer until something is true."""
        deadline = time.monotonic() + seconds
        while not over():
            if self.work() or self.ring.ring.final_check():
                continue
            assert time.monotonic() < deadline, f"it did not come to pass; the frontend says: {self.log()}"
            self.channel.wait(0.01)
            self.channel.drain()
