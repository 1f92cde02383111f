"""dev/: the devices of one domain, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenfs.fs.dev.caller import CallerMemory
from xenfs.fs.dev.device import Device, OpenDevice
from xenfs.fs.dev.evtchn import OpenEvtchn
from xenfs.fs.nodes import FixedDirectory, Owner

if TYPE_CHECKING:
    from xenfs.fs.dev.ports import BoundPort
    from xenfs.fs.filesystem import Filesystem
    from xenfs.hypervisor.state import Domain

DEVICES: dict[str, type[OpenDevice]] = {"evtchn": OpenEvtchn}


class Dev(FixedDirectory):
    """dev/."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner) -> None:
        """Make the inodes."""
        super().__init__(fs, fs.new_ino(), owner)
        self.domain = domain
        self.memory = CallerMemory()
        self.opened: set[OpenDevice] = set()
        self.ports: dict[int, BoundPort] = {}
        self.nodes = {name: Device(self, owner, kind) for name, kind in DEVICES.items()}

    def bury(self) -> None:
        """The domain has been destroyed."""
        for opened in list(self.opened):
            opened.bury()
        self.memory.close()
