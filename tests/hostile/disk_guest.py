"""A guest without scruples, against the real blkback."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.hostile.peer import PeerHost, RingGuest
from xenfs.abi.blkif import FORMATS, SEGMENT, Op, Segment, direct
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry
from xenfs.testing.peers import MockFront

PAGES = 64
OKAY, ERROR, UNSUPPORTED = 0, -1, -2
SIZE = 1 << 20
SECTORS = SIZE // 512


class DiskHost(PeerHost):
    """A machine and its image."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        super().__init__(folder, held)
        self.image = folder / "image"

    def fill(self) -> bytes:
        """Put other bytes into the image, each sector beginning with its number; what they are."""
        data = b"".join(number.to_bytes(4, "little") + os.urandom(508) for number in range(SECTORS))
        self.image.touch()
        with self.image.open("r+b") as file:
            file.write(data)  # in its place: a file that is made shorter first is a smaller disk for a moment
            file.truncate()
        return data

    @contextmanager
    def guest(self, mode: str = "rw", target: str = "", *, frames: int = 1024) -> Iterator[DiskGuest]:
        """A guest with a disk, whose backend runs."""
        line = f"{target or self.image},raw,xvda,{mode}"
        with self.backend("vbd", line, "xenblk.back", frames) as (domain, device, back):
            made = DiskGuest(self, domain, device, back)
            try:
                yield made
            finally:
                made.close()


class DiskGuest(RingGuest):
    """The frontend."""

    @property
    def host(self) -> DiskHost:
        """The machine."""
        assert isinstance(self.machine, DiskHost)
        return self.machine

    def prepare(self, protocol: str = "x86_64-abi", order: int = 0) -> dict[str, str | None]:
        """Ring, pages and channel; the keys that an honest frontend would write."""
        page, _, refs = self.share(1 << order)
        self.ring_refs = refs
        self.ring = self.held.enter_context(MockFront(page, FORMATS[protocol], request_id=3))
        self.view, _, self.refs = self.share(PAGES)
        self.channel = self.held.enter_context(self.domain.events.alloc_unbound(0))
        keys: dict[str, str | None] = {"event-channel": str(self.channel.port), "protocol": protocol}
        if order:
            keys |= {"ring-page-order": str(order), **{f"ring-ref{n}": str(ref) for n, ref in enumerate(refs)}}
        else:
            keys["ring-ref"] = str(refs[0])
        return {**keys, "feature-persistent": "1"}

    def connect(self, protocol: str = "x86_64-abi", order: int = 0, **changes: str | None) -> DiskGuest:
        """Publish, be Initialised, and Connected after the backend. Underscores in names of keys stand for dashes."""
        keys = self.prepare(protocol, order) | {name.replace("_", "-"): value for name, value in changes.items()}
        self.publish(keys)
        self.until_state(S.Connected)
        self.set_state(S.Connected)
        return self

    def again(self) -> None:
        """Close, connect as an honest frontend, and read a sector."""
        self.close()
        self.set_state(S.Initialising)
        self.until_state(S.InitWait)
        for name in ("ring-page-order", "multi-queue-num-queues"):
            self.store.rm(f"{self.path}/{name}") if self.store.exists(f"{self.path}/{name}") else None
        self.connect()
        assert self.ask(self.read(5, 1)) == [(0, int(Op.read), OKAY)]
        assert int.from_bytes(self.view[:4], "little") == 5

    def read(self, sector: int, count: int, number: int = 0, page: int = 0) -> Entry:
        """A read of up to a page."""
        return self.request(Op.read, sector, [Segment(self.refs[page], 0, count - 1)], number)

    def request(self, op: int, sector: int, parts: Sequence[Segment], number: int = 0) -> Entry:
        """A request with its segments in itself."""
        return direct(int(op), 0, number, sector, parts)

    def raw(
        self, op: int, count: int, sector: int, parts: Sequence[tuple[int, int, int]] = (), number: int = 0
    ) -> Entry:
        """A request that says what it likes of its segments."""
        return op, count, 0, number, sector, b"".join(SEGMENT.pack(*part) for part in parts)[:88]

    def put(self, page: int, data: bytes) -> None:
        """Write into one of the pages."""
        self.view[page * PAGE_SIZE : page * PAGE_SIZE + len(data)] = data

    def page(self, number: int, size: int = PAGE_SIZE) -> bytes:
        """What is in one of the pages."""
        return bytes(self.view[number * PAGE_SIZE : number * PAGE_SIZE + size])
