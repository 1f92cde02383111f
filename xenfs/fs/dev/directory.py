"""dev/: the devices of one domain, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenfs.fs.dev.caller import CallerMemory
from xenfs.fs.dev.device import Device, OpenDevice
from xenfs.fs.dev.evtchn import OpenEvtchn
from xenfs.fs.dev.gntalloc import OpenGntalloc, SharedPage
from xenfs.fs.dev.gntdev import OpenGntdev
from xenfs.fs.dev.hypercall import OpenHypercall
from xenfs.fs.dev.xenbus import OpenXenbus
from xenfs.fs.nodes import FixedDirectory, Owner

if TYPE_CHECKING:
    from xenfs.fs.dev.ports import BoundPort
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.turns import Turns
    from xenfs.hypervisor.state import Domain, Grant

DEVICES: dict[str, type[OpenDevice]] = {
    "evtchn": OpenEvtchn,
    "gntalloc": OpenGntalloc,
    "gntdev": OpenGntdev,
    "hypercall": OpenHypercall,
    "xenbus": OpenXenbus,
}


class Dev(FixedDirectory):
    """dev/. What Linux's drivers keep for all open files of a device is here.

    `ports` were bound through dev/evtchn, `granted` allocated through dev/gntalloc, `reserved` is how many grants are
    in maps of dev/gntdev.
    """

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner, turns: Turns) -> None:
        """Make the inodes."""
        super().__init__(fs, fs.new_ino(), owner)
        self.domain, self.turns = domain, turns
        self.memory = CallerMemory()
        self.opened: set[OpenDevice] = set()
        self.ports: dict[int, BoundPort] = {}
        self.granted: dict[Grant, SharedPage] = {}
        self.reserved = 0
        self.nodes = {name: Device(self, owner, kind) for name, kind in DEVICES.items()}

    def bury(self) -> None:
        """The domain has been destroyed."""
        for opened in list(self.opened):
            opened.bury()
        self.memory.close()
