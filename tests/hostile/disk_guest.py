"""A guest without scruples, against the real blkback, which is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from xl import kinds, spec

from tests.mounted.mount import until
from xenfs.abi.blkif import FORMATS, SEGMENT, Op, Segment, direct
from xenfs.abi.stats import Stats
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain import Refused
from xenfs.domain.mounted import MountedDomain
from xenfs.ring import Entry
from xenfs.testing.mount import Mount
from xenfs.testing.peers import MockFront
from xenfs.xenbus import Device
from xenfs.xenbus.end import read_state

SECONDS = 20.0
PAGES = 64
OKAY, ERROR, UNSUPPORTED = 0, -1, -2
SIZE = 1 << 20
SECTORS = SIZE // 512


class DiskHost:
    """A machine and its image."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.mount = Mount(folder / "xen", 1 << 15)
        held.callback(self.mount.close)
        self.mount.arm(600)
        self.point, self.folder = str(folder / "xen"), folder
        self.root = held.enter_context(MountedDomain(0, self.point))
        self.log = folder / "log"
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
        domid = self.root.call(CreateDomain(frames=frames)).domid
        wanted = kinds.parse("vbd", f"{target or self.image},raw,xvda,{mode}", domid, 0, int)
        spec.add(self.root.store, wanted)
        with self.log.open("ab") as log:
            back = subprocess.Popen(
                [sys.executable, "-m", "xenblk.back", str(domid), str(wanted.device.id)],
                env={**os.environ, "XEN": self.point, "XEN_DOMID": "0"},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        with back:
            try:
                spec.wait_ready(self.root.store, wanted)
                with MountedDomain(domid, self.point) as domain:
                    made = DiskGuest(self, domain, wanted.device, back)
                    try:
                        yield made
                    finally:
                        made.close()
                assert back.poll() is None, "blkback must not end"
            finally:
                back.send_signal(signal.SIGTERM)
                until(lambda: back.poll() is not None, SECONDS)
                spec.remove(self.root.store, wanted.device)
        self.root.call(DestroyDomain(dom=domid))
        assert back.returncode == 0

    def held(self) -> list[str]:
        """What is granted, mapped or dying anywhere."""
        lines = Path(self.point, "hypervisor/frames").read_text().splitlines()[1:-1]
        return [line for line in lines if line.split()[3:6] != ["0", "0", "0"] or line.split()[1] == "dying"]


class DiskGuest:
    """The frontend."""

    def __init__(self, host: DiskHost, domain: MountedDomain, device: Device, back: subprocess.Popen[bytes]) -> None:
        self.host, self.domain, self.device, self.back = host, domain, device, back
        self.store, self.memory = domain.store, domain.memory
        self.path = f"device/vbd/{device.id}"
        self.held = ExitStack()

    def share(self, count: int, *, readonly: bool = False) -> tuple[memoryview, list[int], list[int]]:
        """Pages granted to the backend: view, frames, grants."""
        frames = self.memory.alloc(count)
        region = self.memory.view(frames)
        refs = self.memory.grant(frames, 0, readonly=readonly)
        self.held.callback(self.memory.free, frames, defer=True)
        self.held.callback(region.close)
        self.held.callback(self._revoke, refs)
        return region.view, frames, refs

    def _revoke(self, refs: list[int]) -> None:
        with suppress(Refused):  # a test has done so before
            self.memory.end_access(refs, defer=True)

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

    def publish(self, keys: dict[str, str | None]) -> None:
        """Write keys, and be Initialised."""
        for name, value in keys.items():
            if value is not None:
                self.store.write(f"{self.path}/{name}", value)
        self.set_state(S.Initialised)

    def set_state(self, state: S) -> None:
        self.store.write(f"{self.path}/state", str(int(state)))

    def state(self) -> S | None:
        return read_state(self.host.root.store, self.device.backend_path)

    def until_state(self, *states: S) -> None:
        until(lambda: self.state() in states, SECONDS)

    def until_stopped(self, words: str) -> None:
        """Until the backend has stopped the device, and says why."""
        self.until_state(S.Closing, S.Closed)
        path = f"error/backend/vbd/{self.device.domid}/{self.device.id}/error"
        said = self.host.root.store.read(path).decode()
        assert words in said, said

    def close(self) -> None:
        """Let go of everything, as a frontend that closes."""
        self.set_state(S.Closed)
        self.until_state(S.Closed, S.InitWait)
        self.held.close()
        self.held = ExitStack()

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

    def ask(self, *requests: Entry) -> list[Entry]:
        """Queue requests; as many responses, or those that come before the backend stops."""
        for request in requests:
            self.ring.ring.push(*request)
        self.ring.publish()
        self.channel.notify()
        return self.answers(len(requests))

    def answers(self, count: int) -> list[Entry]:
        """So many responses."""
        found: list[Entry] = []
        deadline = time.monotonic() + SECONDS
        while True:
            found += self.ring.ring.take()
            if len(found) >= count or self.state() is not S.Connected:
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {count} responses"
            if not self.ring.ring.final_check():
                self.channel.wait(0.05)
                self.channel.drain()

    def put(self, page: int, data: bytes) -> None:
        """Write into one of the pages."""
        self.view[page * PAGE_SIZE : page * PAGE_SIZE + len(data)] = data

    def page(self, number: int, size: int = PAGE_SIZE) -> bytes:
        """What is in one of the pages."""
        return bytes(self.view[number * PAGE_SIZE : number * PAGE_SIZE + size])

    def stats(self) -> Stats:
        """What the backend has counted."""
        name = f"vbd-{self.device.domid}-{self.device.id}-stats"
        return Stats.parse(Path(self.host.point, "domains/0/rings", name).read_bytes())
