"""A machine in which nothing moves but what a test moves, so that all that is shown can be told beforehand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from xenecho import LAYOUT

from tests.conformance.world import Mount
from tests.xenbus.toolstack import attach, remove
from xenfs.abi.ring import ENTRIES, HEADER
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device

TABLES = ("grants", "pages", "ports", "rings", "watches")
"""Files of hypervisor/ that are for the mount's owner alone."""
RING = "echo-0-ring"
TEXT = b"What is written here is seen by whoever looks."
PAGE = 4096


class Lab:
    """Domains 1, `alpha`, and 2, `beta`, entered by this process.

    Of alpha's first frames one is a ring with two requests in flight, one is mapped by beta, one is granted to domain 0
    read-only and not mapped, one is just held. The two have a channel, of which an event is pending at beta's end, and
    alpha has a port that waits for domain 0. Device echo 1/3 waits for a devd, which there is not.
    """

    def __init__(self, folder: Path) -> None:
        self.mount = Mount(folder / "xen")
        self.mount.arm(600)
        self.point = str(folder / "xen")
        self.held = ExitStack()
        self.held.callback(self.mount.close)
        try:
            self._furnish()
        except BaseException:
            self.held.close()
            raise

    def enter(self, domid: int) -> MountedDomain:
        """A handle that is closed at the end."""
        return self.held.enter_context(MountedDomain(domid, self.point))

    def _furnish(self) -> None:
        self.root = self.enter(0)
        for name, frames in (("alpha", 256), ("beta", 512)):
            self.root.call(CreateDomain(name=name, frames=frames, max_frames=2 * frames))
        self.one, self.two = self.enter(1), self.enter(2)
        self.ring, self.mapped, self.granted, self.kept = self.one.memory.alloc(4)
        self.write(self.kept, TEXT)
        self.turn(req_prod=12, rsp_prod=10, entries={10: (7, 77), 11: (8, 88)})
        self.one.memory.name_ring(RING, self.ring)
        (self.mapped_ref,) = self.one.memory.grant([self.mapped], 2)
        (self.granted_ref,) = self.one.memory.grant([self.granted], 0, readonly=True)
        self.held.enter_context(self.two.memory.map(1, [self.mapped_ref]))
        here = self.held.enter_context(self.one.events.alloc_unbound(2))
        there = self.held.enter_context(self.two.events.bind_interdomain(1, here.port))
        there.drain()
        here.drain()
        here.notify()
        self.waiting = self.held.enter_context(self.one.events.alloc_unbound(0))
        self.ports = here.port, there.port
        self.stuck = Device("echo", 1, 3)
        attach(self.root.store, self.stuck)
        self.held.callback(remove, self.root.store, self.stuck)

    def write(self, frame: int, data: bytes, at: int = 0) -> None:
        """Bytes into a frame of alpha's."""
        page = bytearray(PAGE)
        with memoryview(page) as view:
            self.one.memory.read_frames([frame], [view])
        page[at : at + len(data)] = data
        self.one.memory.write_frames([frame], memoryview(page))

    def turn(self, req_prod: int, rsp_prod: int, entries: dict[int, tuple[int, int]]) -> None:
        """Set the indices of the ring, and requests by their index."""
        head = bytearray(PAGE)
        HEADER.pack_into(
            head, 0, req_prod, req_prod + 1, rsp_prod, rsp_prod + 1, *HEADER.unpack(bytes(HEADER.size))[4:]
        )
        for index, entry in entries.items():
            place = ENTRIES + index % LAYOUT.slots(PAGE) * LAYOUT.entry_size
            LAYOUT.request.pack_into(head, place, *entry)
        self.one.memory.write_frames([self.ring], memoryview(head))

    def file(self, name: str) -> str:
        """A file of the mount."""
        return Path(self.point, name).read_text()

    def create(self, name: str, frames: int = 64) -> int:
        return self.root.call(CreateDomain(name=name, frames=frames)).domid

    def inside(self, domid: int) -> MountedDomain:
        """A handle to be closed by who asks for it."""
        return MountedDomain(domid, self.point)

    def destroy(self, domid: int) -> None:
        self.root.call(DestroyDomain(dom=domid))

    def close(self) -> None:
        """End all of it; the daemon has nothing to say of it."""
        with self.held:
            alive, said = self.mount.rest(), self.mount.log()
        assert alive
        assert said == ""
