"""blkfront: a disk in the guest, as a file and, for root, as a block device."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from xenblk.attendant import Attendant
from xenblk.file import DiskFile
from xenblk.loopdev import CONTROL
from xenblk.names import disk_name
from xenblk.pool import Pool, Shape
from xenblk.shadow import Shadow
from xenfs.abi.blkif import FORMATS, SECTOR_SIZE, X86_64, Info, Op
from xenfs.domain import Domain
from xenfs.domain.mounted.xen import default_root
from xenfs.fusemount import MountError
from xenfs.xenbus import Counters, Frontend, LocalDeviceError, Loop, OtherEnd, main
from xenfs.xenbus.classes import VBD
from xenfs.xenbus.end import Log, Values, to_stderr

FILE, DEVICE = "xenfs-file", "xenfs-device"
"""Where the disk is: keys of the frontend's own nodes."""
_BUSY_SECONDS = 0.5
_PREFIX = "disk-"


class BlkFront(Frontend):
    """One vbd, xvda and so on."""

    CLASS = VBD
    SHAPE = Shape()
    file: DiskFile | None = None
    counters: Counters
    shadow: Shadow

    def __init__(self, domain: Domain, number: int, *, loop: Loop | None = None, log: Log = to_stderr) -> None:
        """See Frontend."""
        super().__init__(domain, number, loop=loop, log=log)
        self._shared = self._busy = False
        self._node = ""
        self._attendant: Attendant | None = None

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
        if self.file is None:
            self._make(their)
        elif self.file.size != int(their["sectors"]) * SECTOR_SIZE:
            self._resize(int(their["sectors"]))
        self.shadow.connect(self._ring, self._channel, self._segments)

    def _make(self, their: Values) -> None:
        name, root = disk_name(self.device.id), os.geteuid() == 0
        self._forget_last()
        folder = self._folder(name)
        readonly = bool(int(their["info"]) & Info.readonly)
        if root and Path(CONTROL).exists():
            self._attendant = Attendant(self.loop)
        try:
            self.file = DiskFile(folder, name, self.shadow, readonly=readonly, others=root)
        except MountError as error:
            Path(folder).rmdir()
            self._leave_device()
            raise LocalDeviceError(f"{error.strerror}", errno.EPERM) from None
        self.file.size = int(their["sectors"]) * SECTOR_SIZE
        self.file.sector_size = int(their["sector-size"])
        self.loop.watch(self.file.mount.fd, lambda: self.attempt(self._serve))
        self.store.write(f"{self.path}/{FILE}", self.file.path)
        if self._attendant is not None:
            self._busy = True
            sector_size = str(self.file.sector_size)
            self._attendant.ask(["attach", self.file.path, sector_size, str(int(readonly))], self._attached)

    def _folder(self, name: str) -> str:
        """Where to mount: among the guest's files if the toolstack has made it, else anywhere. Never where another has
        been mounted: whoever unmounts that one might be late.
        """
        known = Path(f"{default_root()}.run", str(self.domain.domid))
        return tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=known if os.access(known, os.W_OK) else None)

    def _attached(self, said: str) -> None:
        self._busy = False
        verdict, _, path = said.partition(" ")
        if verdict == "ok":
            self._node = path
            self.attempt(lambda: self.store.write(f"{self.path}/{DEVICE}", path))
        else:
            self.log(f"{self!r}: {path}")
        self.step()

    def _forget_last(self) -> None:
        """Unmount what a blkfront that died has left."""
        own = OtherEnd(self.store, self.path)
        said = own.raw(FILE)
        if said and Path(said).parent.name.startswith(_PREFIX):
            folder = Path(said).parent
            subprocess.run(["fusermount", "-uzq", str(folder)], check=False, stderr=subprocess.DEVNULL)
            with contextlib.suppress(OSError):
                folder.rmdir()
        for name in (FILE, DEVICE):
            if own.raw(name) is not None:
                self.store.rm(f"{self.path}/{name}")

    def _connect(self) -> bool:
        """Connected means that the disk is there."""
        self._work()
        return False if self._busy else super()._connect()

    def _serve(self) -> None:
        if self.file is None:
            return
        if not self.file.serve():
            self.log(f"{self!r}: somebody has unmounted the disk's file; it is made anew")
            self._lose()
            self._make(self._offered(late=True))
            self.step()

    def _lose(self) -> None:
        """There is no file and no block device any more."""
        if self.file is not None:
            self.loop.unwatch(self.file.mount.fd)
            self.shadow.give_up()
            file, self.file = self.file, None
            file.close()
        self._leave_device()

    def _leave_device(self) -> None:
        if self._attendant is not None:
            self._attendant.close()
            self._attendant = None
        self._node, self._busy = "", False

    def _event(self) -> None:
        self.counters.events_received += 1
        self.shadow.answered()
        if self.file is not None:
            self.file.go_on()

    def changed(self, their: Values) -> None:
        """The disk has another size."""
        if self.file is not None and self.file.size != int(their["sectors"]) * SECTOR_SIZE:
            self._resize(int(their["sectors"]))

    def _resize(self, sectors: int) -> None:
        assert self.file is not None
        self.file.size = sectors * SECTOR_SIZE
        if self._node and self._attendant is not None:
            self._attendant.ask(["resize"], lambda said: None if said == "ok" else self.log(f"{self!r}: {said}"))

    def _close(self) -> bool:
        """When the disk is taken away: not while somebody has it mounted, and what the guest has written comes first.
        A backend that closes for another reason serves nothing more, and comes back."""
        if not self._node or self._attendant is None or not self._connected or self._online():
            return super()._close()
        if not self._busy:
            self._busy = True
            self._attendant.ask(["detach"], self._detached)
        return False

    def _detached(self, said: str) -> None:
        if said == "busy":
            self.complain(f"{self._node} is in use", errno.EBUSY)
            self.loop.later(_BUSY_SECONDS, self._look_again)
            return
        if said != "ok":
            self.log(f"{self!r}: {said}")
        self._node = ""
        self._look_again()

    def _look_again(self) -> None:
        self._busy = False
        self.step()

    def remove(self) -> None:
        """The disk goes with the device."""
        self._lose()


if __name__ == "__main__":
    sys.exit(main(BlkFront))
