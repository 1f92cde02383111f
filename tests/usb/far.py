"""A device of a USB/IP server's, in a port of a guest's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from xenusb.client import Handle
from xenusb.loopback import BULK, Loopback

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import Bay
from tests.usb.exporter import Exporter, Tamper
from tests.usb.peers import IN, SETTING, claims, opened, plugged
from xenfs.domain import Refused

FAR = 3
"""The port with the device of another's."""


def status_of(bay: Bay, domid: int, port: int = FAR) -> str:
    """What usbback says of a port."""
    with suppress(Refused):
        return bay.stage.store.read(f"{bay.controller(domid).backend_path}/port-status/{port}").decode()
    return ""


@contextmanager
def served(bay: Bay, domid: int, tamper: Tamper | None = None) -> Iterator[tuple[Exporter, Handle]]:
    """A loop-back of a server's, and as a program of the guest has it, with its endpoints."""
    with (
        Exporter(Loopback, tamper=tamper) as server,
        plugged(bay, domid, FAR, server.text),
        opened(bay, domid, "1-3") as handle,
    ):
        handle.control(SETTING)
        yield server, handle


def works(bay: Bay, domid: int) -> bool:
    """Whether a device in another port is what it was."""
    with opened(bay, domid, "1-1") as handle:
        until(lambda: claims(handle), SECONDS)
        handle.control(SETTING)
        handle.transfer(BULK, b"here")
        return handle.transfer(IN | BULK, size=64).data == b"here"
