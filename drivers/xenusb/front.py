"""usbfront: a host controller for the guest's programs, whose devices are in the backend's ports."""

from __future__ import annotations

import string
import sys
from contextlib import suppress
from itertools import chain, product

from xenblk.guest_disk import FILE
from xenblk.names import disk_name

from xenfs.abi.usbif import CONN, URB
from xenfs.domain import Domain, Refused
from xenfs.xenbus import Counters, Frontend, Loop, OtherEnd, main
from xenfs.xenbus.classes import VUSB
from xenfs.xenbus.end import Log, Values, to_stderr
from xenusb.hub import Attached, Hub
from xenusb.server import Server
from xenusb.storage import Storage
from xenusb.unit import interface_of
from xenusb.urbs import PAGES, Urbs

PORT = "port"
"""Keys `port/N` of the frontend's: the device that the guest has there, in words."""


class UsbFront(Frontend):
    """One vusb."""

    CLASS = VUSB
    urbs: Urbs
    hub: Hub
    server: Server | None = None

    def __init__(self, domain: Domain, number: int, *, loop: Loop | None = None, log: Log = to_stderr) -> None:
        """See Frontend."""
        super().__init__(domain, number, loop=loop, log=log)
        self.disks: dict[int, Storage] = {}
        self.counters = Counters(role=0, loop=self.loop, device=3)
        self._shared = False
        """Whether there are pages, which is so for good."""

    def publish(self, their: Values) -> None:
        """Share both rings and a channel; the pages are those of the connection before."""
        about = OtherEnd(self.store, self.other_path)
        ports = about.number("num-ports", 1, 31)
        about.number("usb-ver", 1, 2)
        self.counters.share(self.memory, f"{self.device.ring_prefix}-stats")
        if not self._shared:
            self.urbs = Urbs(self.share_pages(PAGES, keep=True), self.counters, self.loop)
            self.hub = Hub(self.urbs, self.loop, ports, self._changed, self._removed)
            self._shared = True
        if self.server is None:
            self.server = Server(self, self.hub, self.urbs, self._bind)
        self.hub.ports = ports
        self._ring = self.share_ring("urb", "urb-ring-ref", URB, keep=True)
        self._plugs = self.share_ring("conn", "conn-ring-ref", CONN, keep=True)
        self._channel = self.share_channel("event-channel", self._event)
        self.mine["feature-persistent"] = "1"
        for number in range(self._plugs.free):
            self._plugs.push(number)
        self._plugs.publish()

    def connected(self, their: Values) -> None:
        """Hear of the devices; those that were there before are expected back."""
        self.counters.reconnects += 1
        self.urbs.connect(self._ring, self._channel)
        self.hub.expect()
        self._event()

    def _event(self) -> None:
        """One channel for both rings."""
        if not self._connected:
            return  # the backend is early: `connected` looks
        self.counters.events_received += 1
        self._hear()
        self.urbs.answered()

    def _hear(self) -> None:
        """Of everything that was plugged in or out. Raises PeerProtocolError."""
        ring = self._plugs
        for number, port, speed in ring.take():
            ring.push(number)
            self.hub.plug(port, speed)
            if ring is not self._plugs or not self._connected:
                return
        if ring.publish():
            self.counters.events_sent += 1
            self._channel.notify()
        if ring.final_check():  # more already: after whatever else there is to do
            self.later(0, self._event)

    def _changed(self, device: Attached) -> None:
        """A device is there, for the first time or again; unless it was unplugged meanwhile."""
        if self.hub.devices.get(device.port) is not device:
            return
        self.attempt(lambda: self._tell(device))
        disk = self.disks.get(device.port)
        if disk is not None:
            disk.resume()
        else:
            self._bind(device)

    def _tell(self, device: Attached) -> None:
        about = device.device
        words = device.problem
        if about is not None:
            name = " ".join(part for part in device.strings[:2] if part)
            words = f"{about.vendor:04x}:{about.product:04x} {name}".strip()
        self.store.write(f"{self.path}/{PORT}/{device.port}", words.encode("ascii", "replace").decode())
        if device.problem:
            self.log(f"{self!r}: port {device.port}: {device.problem}")

    def _bind(self, device: Attached) -> None:
        """Give a device that nobody has to its driver, if there is one."""
        there = self.hub.devices.get(device.port) is device and not device.lost
        interface = interface_of(device)
        if there and interface is not None and device.whole is None and interface.number not in device.claims:
            self.disks[device.port] = Storage(
                self, self.urbs, device, interface, self._disk_name(device.port), lambda: self._unbound(device)
            )

    def _unbound(self, device: Attached) -> None:
        self.disks.pop(device.port, None)

    def _disk_name(self, port: int) -> str:
        """The one that a usbfront that died had for it, or the first of sda … sdz, sdaa … that no disk has."""
        taken, before = set(), ""
        for number in self._list("device/vbd"):
            with suppress(ValueError):
                taken.add(disk_name(int(number)))
        for controller in self._list("device/vusb"):
            for other in self._list(f"device/vusb/{controller}/disk"):
                said = OtherEnd(self.store, f"device/vusb/{controller}/disk/{other}").raw(FILE) or ""
                name = said.rpartition("/")[2]
                if (controller, other) == (str(self.device.id), str(port)):
                    before = name
                else:
                    taken.add(name)
        taken |= {disk.name for disk in self.disks.values()}
        letters = string.ascii_lowercase
        names = map("sd{}".format, chain(letters, map("".join, product(letters, letters))))
        return next(name for name in chain([before], names) if name and name not in taken)

    def _list(self, path: str) -> tuple[str, ...]:
        with suppress(Refused):
            return self.store.list(path)
        return ()

    def _removed(self, device: Attached) -> None:
        with suppress(Refused):
            self.store.rm(f"{self.path}/{PORT}/{device.port}")

    def release(self) -> None:
        """See End: what uses a disk waits for another backend."""
        if self.server is not None:
            for disk in self.disks.values():
                disk.suspend()
            self.hub.lose()
            self.urbs.disconnect()
        super().release()

    def remove(self) -> None:
        """Every device goes."""
        if self.server is not None:
            self.hub.close()
            self.server.close()
            self.server = None


if __name__ == "__main__":
    sys.exit(main(UsbFront))
