"""A disk as the guest has it: a file, and for root a block device over it, both told in the frontend's own nodes."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from xenblk.attendant import Attendant
from xenblk.file import DiskFile, Wishes
from xenblk.loopdev import CONTROL
from xenfs.domain.mounted.xen import default_root
from xenfs.fusemount import MountError
from xenfs.xenbus import Frontend, LocalDeviceError, OtherEnd

FILE, DEVICE = "xenfs-file", "xenfs-device"
"""Where the disk is."""
_PREFIX = "disk-"


class GuestDisk:
    """The disk called `name`, whose keys are below `path`. `settled` is called when the block device is there, or is
    known not to come; `lost` when somebody has taken the mount away.
    """

    def __init__(
        self, end: Frontend, path: str, name: str, wishes: Wishes, *,
        size: int, sector_size: int, readonly: bool, settled: Callable[[], None], lost: Callable[[], None],
    ) -> None:  # fmt: skip
        """Make it. Raises LocalDeviceError."""
        self._end, self._path, self._settled, self._lost = end, path, settled, lost
        self.busy = False
        """Whether the block device is being made or taken away."""
        self.node = ""
        root = os.geteuid() == 0
        self._forget_last()
        folder = self._folder(name)
        self._attendant = Attendant(end.loop) if root and Path(CONTROL).exists() else None
        try:
            self.file = DiskFile(folder, name, wishes, readonly=readonly, others=root)
        except MountError as error:
            Path(folder).rmdir()
            self._leave_device()
            raise LocalDeviceError(f"{error.strerror}", errno.EPERM) from None
        self.file.size, self.file.sector_size = size, sector_size
        end.loop.watch(self.file.mount.fd, lambda: end.attempt(self._serve))
        end.store.write(f"{path}/{FILE}", self.file.path)
        if self._attendant is not None:
            self.busy = True
            self._attendant.ask(["attach", self.file.path, str(sector_size), str(int(readonly))], self._attached)

    def _folder(self, name: str) -> str:
        """Where to mount: among the guest's files if the toolstack has made it, else anywhere. Never where another has
        been mounted: whoever unmounts that one might be late.
        """
        known = Path(f"{default_root()}.run", str(self._end.domain.domid))
        return tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=known if os.access(known, os.W_OK) else None)

    def _attached(self, said: str) -> None:
        self.busy = False
        verdict, _, path = said.partition(" ")
        if verdict == "ok":
            self.node = path
            self._end.attempt(lambda: self._end.store.write(f"{self._path}/{DEVICE}", path))
        else:
            self._end.log(f"{self._end!r}: {path}")
        self._settled()

    def _forget_last(self) -> None:
        """Unmount what a frontend that died has left."""
        own = OtherEnd(self._end.store, self._path)
        said = own.raw(FILE)
        if said and Path(said).parent.name.startswith(_PREFIX):
            folder = Path(said).parent
            subprocess.run(["fusermount", "-uzq", str(folder)], check=False, stderr=subprocess.DEVNULL)
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._tell_nothing()

    def _tell_nothing(self) -> None:
        for name in (FILE, DEVICE):
            if self._end.store.exists(f"{self._path}/{name}"):
                self._end.store.rm(f"{self._path}/{name}")

    def _serve(self) -> None:
        if not self.file.serve():
            self._end.log(f"{self._end!r}: somebody has unmounted the disk's file; it is made anew")
            self._lost()

    def resize(self, size: int) -> None:
        """It has another size."""
        self.file.size = size
        if self.node and self._attendant is not None:
            self._attendant.ask(["resize"], lambda said: None if said == "ok" else self._end.log(said))

    def detach(self, then: Callable[[str], None]) -> None:
        """Take the block device away, with everything written: `then` hears `ok`, `busy` or what went wrong. There may
        be none, and then it hears `ok` at once.
        """
        if not self.node or self._attendant is None:
            then("ok")
            return
        self.busy = True

        def said(words: str) -> None:
            if words != "busy":
                self.node = ""
            then(words)
            self.busy = False

        self._attendant.ask(["detach"], said)

    def close(self) -> None:
        """There is no file and no block device any more; what is still wished for is the caller's."""
        self._end.loop.unwatch(self.file.mount.fd)
        self.file.close()
        self._leave_device()

    def forget(self) -> None:
        """As `close`, and the nodes go too, while the device stays."""
        self.close()
        self._tell_nothing()

    def _leave_device(self) -> None:
        if self._attendant is not None:
            self._attendant.close()
            self._attendant = None
        self.node, self.busy = "", False
