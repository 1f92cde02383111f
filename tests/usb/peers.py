"""What the tests of USB/IP share: connections to a guest's server, and devices as a guest's programs have them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from xenusb.client import Handle
from xenusb.descriptors import Setup
from xenusb.usbip import Code

from tests.block.conftest import need_loop
from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import Bay
from tests.usb.vhci import Vhci, connected

AS_ROOT = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="a guest has a network of its own as root's only"),
]
MiB = 1 << 20
IN = 0x80
VENDOR_OUT, VENDOR_IN = 0x40, 0xC0
GET_STATUS, CLEAR_FEATURE, SET_ADDRESS, GET_DESCRIPTOR = 0, 1, 5, 6
GET_CONFIGURATION, SET_CONFIGURATION, GET_INTERFACE, SET_INTERFACE = 8, 9, 10, 11
SETTING = Setup(1, SET_INTERFACE, 1, 0)
"""The setting of the loop-back in which it has endpoints."""


def pattern(size: int) -> bytes:
    """Bytes of which no two stretches are alike."""
    return b"".join(number.to_bytes(4, "little") for number in range(size // 4 + 1))[:size]


def keeper(bay: Bay, domid: int) -> int:
    """The process that holds a guest's network namespace."""
    found = bay.stage.place.holder(f"{domid}/keeper.pid")
    assert found is not None
    return found


@contextmanager
def line(bay: Bay, domid: int) -> Iterator[Vhci]:
    """A connection to a guest's server, from inside."""
    with connected(keeper(bay, domid), bay.front_key(domid, "xenfs-usbip")) as found:
        yield found


def taken(vhci: Vhci, bus_id: str) -> None:
    """Have a device, as soon as whoever had it before has let go of it."""
    until(lambda: vhci.take(bus_id) is not None, SECONDS)


@contextmanager
def plugged(bay: Bay, domid: int, port: int, what: str) -> Iterator[None]:
    """Something is in a port."""
    bay.plug(domid, port, what)
    try:
        bay.until_there(domid, port)
        yield
    finally:
        bay.plug(domid, port, "")
        bay.until_gone(domid, port)


@contextmanager
def stick(bay: Bay, domid: int, name: str, size: int = MiB) -> Iterator[Path]:
    """A stick in port 2, with a disk: its image."""
    need_loop()
    image = bay.image(size, name)
    with plugged(bay, domid, 2, f"stick:{image}"):
        bay.block(domid, 2)
        yield image


def opened(bay: Bay, domid: int, bus_id: str) -> Handle:
    """A device, as a program of the guest has it open."""
    return next(place for place in bay.places(domid) if place.exported.bus_id == bus_id).open()


def refused(call: Callable[[], object]) -> int | None:
    """The errno that something raises."""
    with pytest.raises(OSError, match=r".") as caught:
        call()
    return caught.value.errno


def answer(handle: Handle, setup: Setup) -> int | None:
    """The errno of a control transfer that is refused."""
    return refused(lambda: handle.control(setup))


def claims(handle: Handle) -> bool:
    """Whether a program may claim its interface now."""
    with suppress(OSError):
        return handle.own(Code.claim, 0) == 0
    return False
