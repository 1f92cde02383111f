"""blkfront: a disk in the guest, as a file and, for root, as a block device."""

from __future__ import annotations

import errno
import sys

from xenblk.guest_disk import GuestDisk
from xenblk.names import disk_name
from xenblk.pool import Pool, Shape
from xenblk.shadow import Shadow
from xenfs.abi.blkif import FORMATS, SECTOR_SIZE, X86_64, Info, Op
from xenfs.domain import Domain
from xenfs.xenbus import Counters, Frontend, Loop, main
from xenfs.xenbus.classes import VBD
from xenfs.xenbus.end import Log, Values, to_stderr

_BUSY_SECONDS = 0.5


class BlkFront(Frontend):
    """One vbd, xvda and so on."""

    CLASS = VBD
    SHAPE = Shape()
    disk: GuestDisk | None = None
    counters: Counters
    shadow: Shadow

    def __init__(self, domain: Domain, number: int, *, loop: Loop | None = None, log: Log = to_stderr) -> None:
        """See Frontend."""
        super().__init__(domain, number, loop=loop, log=log)
        self._shared = False

    def publish(self, their: Values) -> None:
        """Share the ring and a channel; the pages are those of the connection before."""
        if not self._shared:
            self._shared = True
            self.counters = Counters(role=0, loop=self.loop, device=2)
            self.counters.share(self.memory, f"{self.device.ring_prefix}-stats")
            pages, tables = self.SHAPE.pages, self.SHAPE.large
            pool = Pool(
                self.SHAPE, self.share_pages(pages, keep=True), self.share_pages(tables, readonly=True, keep=True)
            )
            self.shadow = Shadow(pool, self.counters)
        layout = FORMATS.get(str(self.config["protocol"]), X86_64)
        self._segments = int(their["feature-max-indirect-segments"])
        self._ring = self.share_ring("ring", "ring-ref", layout, keep=True)
        self._channel = self.share_channel("event-channel", self._event)
        self.held.callback(self.shadow.disconnect)
        self.mine["feature-persistent"] = "1"

    def connected(self, their: Values) -> None:
        """Ask again for what the backend before did not answer, and make the disk, when there is none yet."""
        self.counters.reconnects += 1
        cache, barrier = bool(their["feature-flush-cache"]), bool(their["feature-barrier"])
        self.shadow.flush = Op.flush_diskcache if cache else Op.write_barrier if barrier else None
        self.shadow.discards = bool(their["feature-discard"])
        if self.disk is None:
            self._make(their)
        else:
            self.changed(their)
        self.shadow.connect(self._ring, self._channel, self._segments)

    def _make(self, their: Values) -> None:
        self.disk = GuestDisk(
            self, self.path, disk_name(self.device.id), self.shadow,
            size=int(their["sectors"]) * SECTOR_SIZE, sector_size=int(their["sector-size"]),
            readonly=bool(int(their["info"]) & Info.readonly), settled=self.step, lost=self._anew,
        )  # fmt: skip

    def _anew(self) -> None:
        self._lose()
        self._make(self._offered(late=True))
        self.step()

    def _connect(self) -> bool:
        """Connected means that the disk is there."""
        self._work()
        return False if self.disk is not None and self.disk.busy else super()._connect()

    def _event(self) -> None:
        self.counters.events_received += 1
        self.shadow.answered()
        if self.disk is not None:
            self.disk.file.go_on()

    def changed(self, their: Values) -> None:
        """Perhaps the disk has another size."""
        size = int(their["sectors"]) * SECTOR_SIZE
        if self.disk is not None and self.disk.file.size != size:
            self.disk.resize(size)

    def _close(self) -> bool:
        """When the disk is taken away: not while somebody has it mounted, and what the guest has written comes first.
        A backend that closes for another reason serves nothing more, and comes back."""
        disk = self.disk
        if disk is None or not disk.node or not self._connected or self._online():
            return super()._close()
        if not disk.busy:
            disk.detach(self._detached)
        return False

    def _detached(self, said: str) -> None:
        if said == "busy" and self.disk is not None:
            self.complain(f"{self.disk.node} is in use", errno.EBUSY)
            self.loop.later(_BUSY_SECONDS, self.step)
            return
        if said != "ok":
            self.log(f"{self!r}: {said}")
        self.loop.later(0, self.step)

    def _lose(self) -> None:
        if self.disk is not None:
            self.shadow.give_up()
            disk, self.disk = self.disk, None
            disk.close()

    def remove(self) -> None:
        """The disk goes with the device."""
        self._lose()


if __name__ == "__main__":
    sys.exit(main(BlkFront))
