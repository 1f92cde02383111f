"""A guest without scruples, against the real usbback."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from xenusb.descriptors import Ask, Setup

from tests.hostile.peer import SECONDS, PeerHost, RingGuest
from tests.mounted.mount import until
from xenfs.abi.usbif import CONN, FRAME, ISOC, UNLINK, URB, Pipe, PipeType, Status, Urb
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry
from xenfs.testing.peers import MockFront

PAGES = 20
PORTS = 3
LOOPBACK, STICK, EMPTY = 1, 2, 3
"""What is in the ports."""
BULK, INTERRUPT, ISOC_END = 1, 2, 3
Answer = tuple[int, int, int, int, int]


class UsbHost(PeerHost):
    """A machine; each guest has a stick of its own."""

    def image(self, name: str) -> str:
        path = self.folder / name
        path.touch()
        os.truncate(path, 1 << 20)
        return str(path)

    @contextmanager
    def guest(self, name: str = "image") -> Iterator[UsbGuest]:
        """A guest with a controller: a loop-back in port 1, a stick in port 2, nothing in port 3."""
        with self.backend("vusb", f"ports={PORTS}", "xenusb.back", 512) as (domain, device, back):
            for port, what in ((LOOPBACK, "loopback:"), (STICK, f"stick:{self.image(name)}")):
                self.root.store.write(f"{device.backend_path}/port/{port}", what)
            made = UsbGuest(self, domain, device, back)
            made.until_port(STICK, "connected high")
            try:
                yield made
            finally:
                made.close()


class UsbGuest(RingGuest):
    """The frontend."""

    def prepare(self) -> dict[str, str | None]:
        """Rings, pages and channel; the keys that an honest frontend would write."""
        page, _, self.ring_refs = self.share(1)
        plugs, _, plug_refs = self.share(1)
        self.ring = self.held.enter_context(MockFront(page, URB, request_id=0))
        self.plugs = self.held.enter_context(MockFront(plugs, CONN, request_id=0))
        self.view, _, self.refs = self.share(PAGES)
        self.channel = self.held.enter_context(self.domain.events.alloc_unbound(0))
        for number in range(self.plugs.ring.slots):
            self.plugs.ring.push(number)
        self.plugs.publish()
        return {
            "urb-ring-ref": str(self.ring_refs[0]),
            "conn-ring-ref": str(plug_refs[0]),
            "event-channel": str(self.channel.port),
            "feature-persistent": "1",
        }

    def connect(self, **changes: str | None) -> UsbGuest:
        """Publish, and be Connected, and address the devices."""
        self.publish(self.prepare() | {name.replace("_", "-"): value for name, value in changes.items()}, S.Connected)
        self.until_state(S.Connected)
        return self

    def settle(self) -> UsbGuest:
        """Give both devices an address, their number, and their configuration, and the loop-back its endpoints."""
        for port in (LOOPBACK, STICK):
            assert self.control(port, Setup(0, Ask.set_address, port), address=0) == Status.ok
            assert self.control(port, Setup(0, Ask.set_configuration, 1)) == Status.ok
        assert self.control(LOOPBACK, Setup(1, Ask.set_interface, 1, 0)) == Status.ok
        return self

    def until_port(self, port: int, words: str) -> None:
        """Until the backend says so of a port."""
        path = f"{self.device.backend_path}/port-status/{port}"
        store = self.machine.root.store
        until(lambda: store.exists(path) and store.read(path).decode().startswith(words), SECONDS)

    def plug(self, port: int, what: str) -> None:
        """As the toolstack."""
        self.machine.root.store.write(f"{self.device.backend_path}/port/{port}", what)

    def news(self, count: int) -> list[tuple[int, int]]:
        """So many ports and speeds, as they are told; the requests are posted again."""
        found: list[tuple[int, int]] = []
        deadline = time.monotonic() + SECONDS
        while len(found) < count:
            for number, port, speed in self.plugs.ring.take():
                found.append((port, speed))
                self.plugs.ring.push(number)
            self.plugs.ring.publish()
            assert time.monotonic() < deadline, found
            if not self.plugs.ring.final_check():
                self.channel.wait(0.02)
                self.channel.drain()
        return found

    def segments(self, size: int, page: int = 0) -> tuple[tuple[int, int, int], ...]:
        """Whole pages, and the rest."""
        return tuple(
            (self.refs[page + at // PAGE_SIZE], 0, min(PAGE_SIZE, size - at)) for at in range(0, size, PAGE_SIZE)
        )

    def urb(
        self, port: int, kind: PipeType, *, inward: bool = False, endpoint: int = 0, size: int = 0, number: int = 1,
        address: int | None = None, special: bytes = bytes(8), data: Sequence[tuple[int, int, int]] | None = None,
        frames: Sequence[tuple[int, int, int]] = (), flags: int = 0,
    ) -> Entry:  # fmt: skip
        """A request, honest where nothing else is said."""
        pipe = Pipe(port, kind, inward, port if address is None else address, endpoint)
        parts = self.segments(size) if data is None else tuple(data)
        return Urb(number, pipe, flags, size, special, parts, tuple(frames)).emit()

    def setup(self, port: int, setup: Setup, *, number: int = 1, address: int | None = None) -> Entry:
        """A control transfer."""
        inward = setup.inward and setup.length > 0
        return self.urb(
            port, PipeType.control, inward=inward, size=setup.length, number=number, address=address,
            special=setup.emit(),
        )  # fmt: skip

    def control(self, port: int, setup: Setup, *, address: int | None = None) -> int:
        """Its status."""
        return int(self.ask(self.setup(port, setup, address=address))[0][2])

    def unlink(self, port: int, victim: int, number: int = 9) -> Entry:
        """A request that takes another back."""
        pipe = Pipe(port, PipeType.bulk, address=port, unlink=True)
        return Urb(number, pipe, special=UNLINK.pack(victim)).emit()

    def isoc(
        self, frames: Sequence[tuple[int, int]], *, inward: bool, size: int, count: int | None = None, number: int = 1
    ) -> Entry:
        """An isochronous transfer; its packets are described in the last page."""
        at = (PAGES - 1) * PAGE_SIZE
        for place, (offset, length) in enumerate(frames):
            FRAME.pack_into(self.view, at + place * FRAME.size, offset, length, 0xAAAA, 0x5555)
        return self.urb(
            LOOPBACK, PipeType.isoc, inward=inward, endpoint=ISOC_END, size=size, number=number,
            special=ISOC.pack(1, 0, len(frames) if count is None else count, 1),
            frames=[(self.refs[PAGES - 1], 0, PAGE_SIZE)],
        )  # fmt: skip

    def described(self, count: int) -> list[tuple[int, int]]:
        """Of each packet: the bytes that were moved, and its status."""
        at = (PAGES - 1) * PAGE_SIZE
        raw = bytes(self.view[at : at + count * FRAME.size])
        return [(actual, status) for _, _, actual, status in FRAME.iter_unpack(raw)]

    def put(self, data: bytes, page: int = 0) -> None:
        self.view[page * PAGE_SIZE : page * PAGE_SIZE + len(data)] = data

    def page(self, size: int, number: int = 0) -> bytes:
        return bytes(self.view[number * PAGE_SIZE : number * PAGE_SIZE + size])

    def alive(self) -> None:
        """The device in port 1 says who it is."""
        self.put(bytes(18))
        assert self.ask(self.setup(LOOPBACK, Setup(0x80, 6, 0x100, 0, 18), number=3)) == [(3, 0, 0, 18, 0)]
        assert self.page(12)[8:12] == bytes.fromhex("09125758")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsbHost]:
    with ExitStack() as held:
        made = UsbHost(tmp_path_factory.mktemp("host"), held)
        yield made
        until(lambda: not made.held(), SECONDS)
        assert made.mount.rest()


@pytest.fixture
def patient(host: UsbHost) -> Iterator[UsbGuest]:
    """A guest whose backend offers."""
    with host.guest() as guest:
        yield guest


@pytest.fixture
def guest(patient: UsbGuest) -> UsbGuest:
    """Connected, with both devices addressed and configured."""
    return patient.connect().settle()
