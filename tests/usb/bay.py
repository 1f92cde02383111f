"""A machine with a devd, and guests into which things are plugged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xenusb.client import Handle, Place, devices
from xl import spec, usb

from tests.block.yard import Yard
from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from xenfs.abi.stats import Stats
from xenfs.domain import Refused
from xenfs.xenbus import Device

STICK, LOOPBACK, SERIAL = 0x5854, 0x5857, 0x5856
"""Products."""
IN, OUT = 0x80, 0x00
"""Directions, with which the number of an endpoint is its address."""
MiB = 1 << 20


class Bay(Yard):
    """The machine. A guest has its controller from the start."""

    def usb_guest(self, *lines: str, name: str = "") -> int:
        """A guest with a controller of four ports, and with these in them."""
        domid = self.stage.guest(
            name, memory=16, usbctrl=("ports=4",), usbdev=tuple(f"device={line}" for line in lines)
        )
        self.stage.until_connected(self.controller(domid))
        return domid

    @staticmethod
    def controller(domid: int) -> Device:
        return Device("vusb", domid, 0)

    def plug(self, domid: int, port: int, what: str) -> None:
        """As the toolstack does it. Raises Unable."""
        usb.plug(self.stage.store, self.controller(domid), port, what)

    def front_key(self, domid: int, name: str) -> str:
        """What the frontend says, "" for nothing."""
        with suppress(Refused):
            return self.stage.store.read(f"{self.controller(domid).frontend_path}/{name}").decode()
        return ""

    def until_there(self, domid: int, port: int, words: str = "1209:") -> None:
        """Until the guest has what is in a port."""
        until(lambda: self.front_key(domid, f"port/{port}").startswith(words), SECONDS)

    def until_gone(self, domid: int, port: int) -> None:
        until(lambda: not self.front_key(domid, f"port/{port}"), SECONDS)

    def stick(self, domid: int, port: int) -> Path:
        """The file of the stick in a port, as soon as it is there."""
        until(lambda: bool(self.front_key(domid, f"disk/{port}/xenfs-file")), SECONDS)
        return Path(self.front_key(domid, f"disk/{port}/xenfs-file"))

    def block(self, domid: int, port: int) -> str:
        """Its block device."""
        until(lambda: bool(self.front_key(domid, f"disk/{port}/xenfs-device")), SECONDS)
        return self.front_key(domid, f"disk/{port}/xenfs-device")

    def places(self, domid: int) -> list[Place]:
        """What a program of the guest finds."""
        os.environ["XEN"] = self.stage.point
        try:
            return list(devices(domid))
        finally:
            del os.environ["XEN"]

    @contextmanager
    def opened(self, domid: int, product: int) -> Iterator[Handle]:
        """A device, as a program of the guest has it open."""
        with next(place for place in self.places(domid) if place.exported.product == product).open() as handle:
            yield handle

    def usb_back(self, domid: int) -> int:
        """The usbback of a guest."""
        return self._one(f"backend/vusb/{domid}/0"[:15])

    def usb_front(self) -> int:
        """The one usbfront."""
        return self._one("device/vusb/")

    def kill_usb_back(self, domid: int) -> None:
        """kill -9, and until another is connected."""
        pid = self.usb_back(domid)
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.usb_back(domid) != pid, SECONDS)
        self.stage.until_connected(self.controller(domid))

    def usb_stats(self, domid: int) -> tuple[Stats, Stats]:
        """Of both ends."""
        return self.stats(domid, "vusb-0-stats"), self.stats(0, f"vusb-{domid}-0-stats")

    def in_flight(self, domid: int) -> int:
        """Requests in the guest's ring that are not answered."""
        page = Path(self.stage.point, "domains", str(domid), "rings/vusb-0-urb").read_bytes()
        return int.from_bytes(page[:4], "little") - int.from_bytes(page[8:12], "little")

    def program(self, domid: int, code: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A program of PyUSB's, in the guest, that knows nothing of xenfs."""
        path = self.folder / "program.py"
        path.write_text(code)
        line = [
            sys.executable,
            "-m",
            "xenfs",
            "exec",
            str(domid),
            "--",
            sys.executable,
            "-m",
            "xenusb.pyusb",
            str(path),
        ]
        return subprocess.run(
            ["timeout", "-s", "KILL", "60", *line, *words], capture_output=True, text=True, check=False,
            env=self.stage.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        """End everything."""
        for domid in self.stage.domids():
            spec.detach(self.stage.store, spec.attached(self.stage.store, domid, "vusb"))
        super().close()


def changed(look: Callable[[], object], before: object) -> bool:
    """Whether something is not what it was."""
    return look() != before
