"""A machine at work: a devd, and a guest with an echo device, a disk, and a USB loop-back in its controller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xenusb.descriptors import Setup
from xl import spec

from tests.mounted.mount import SOON, until
from tests.usb.bay import LOOPBACK, Bay
from xenfs.xenbus import Device

MiB = 1 << 20
_ENDPOINT = 2
"""Of the loop-back, one by interrupts."""


class Town(Bay):
    """The machine; all in other processes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            self.domid = self.usb_guest("loopback:", name="worker")
            self.until_there(self.domid, 1)
            self.echo = Device("echo", self.domid, 0)
            self.stage.attach(self.echo)
            self.disk = self.attach(self.domid, f"format=raw,vdev=xvda,access=rw,target={self.image(MiB)}")
            self.stage.until_echoes(self.echo)
        except BaseException:
            self.close()
            raise

    @property
    def point(self) -> str:
        return self.stage.point

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A program of the guest waits for something by an interrupt endpoint."""
        with self.opened(self.domid, LOOPBACK) as handle:
            handle.control(Setup(1, 11, 1, 0))
            before = self.in_flight(self.domid)
            got: list[bytes] = []
            reader = threading.Thread(
                target=lambda: got.append(handle.transfer(0x80 | _ENDPOINT, size=64, seconds=60).data), daemon=True
            )
            reader.start()
            try:
                until(lambda: self.in_flight(self.domid) > before)
                yield
            finally:
                handle.transfer(_ENDPOINT, b"come")
                reader.join(SOON)
            assert got == [b"come"]

    @property
    def second(self) -> Device:
        return Device("echo", self.domid, 1)

    @contextmanager
    def another_echo(self) -> Iterator[None]:
        """Another echo device of the guest's, for a while."""
        self.stage.attach(self.second)
        self.stage.until_connected(self.second)
        try:
            yield
        finally:
            self.detach_echo()

    def detach_echo(self) -> None:
        spec.detach(self.stage.store, [self.second])

    def in_ring(self) -> int:
        """How many requests the echo device has made."""
        page = Path(self.point, "domains", str(self.domid), "rings/echo-0-ring").read_bytes()
        return int.from_bytes(page[:4], "little")
