"""What the tests of usbfront share: a machine, its backends, and who reads from a disk of the guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from xenusb.descriptors import Ask, Kind, Setup
from xenusb.usbip import OP, VERSION, Op

from tests.hostile.peer import SECONDS
from tests.hostile.usb_back import UsbBack, UsbMachine
from tests.hostile.usb_liars import Gizmo
from tests.mounted.mount import until
from xenfs.abi.usbif import Urb

IN = 0x80
LISTING = OP.pack(VERSION, Op.list_request, 0)
FIRST = Setup(0x80, Ask.get_descriptor, Kind.device << 8, 0, 64)
DEVICE = Setup(0x80, Ask.get_descriptor, Kind.device << 8, 0, 18)
ADDRESS, CONFIGURE = Setup(0, Ask.set_address, 1), Setup(0, Ask.set_configuration, 1)
READ = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    found = os.pread(fd, int(sys.argv[3]), int(sys.argv[2]))
    print(len(found), found[:4], set(found) == set(found[:1]))
except OSError as error:
    print(error.strerror)
"""
WRITE = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    print(os.pwrite(fd, bytes(int(sys.argv[3])), int(sys.argv[2])))
except OSError as error:
    print(error.strerror)
"""
FAILED = ("Input/output error\n", "")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsbMachine]:
    with ExitStack() as held:
        made = UsbMachine(tmp_path_factory.mktemp("machine"), held)
        patch = held.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("XEN", made.point)
        yield made
        until(lambda: not made.held(), SECONDS)
        assert made.mount.rest()


@pytest.fixture
def early(machine: UsbMachine) -> Iterator[UsbBack]:
    """A backend that has not offered anything."""
    with machine.back() as back:
        yield back


@pytest.fixture
def back(early: UsbBack) -> UsbBack:
    """Connected, with a gizmo in port 1."""
    early.connect({1: Gizmo()}).until_there(1)
    return early


@pytest.fixture
def hasty(machine: UsbMachine) -> Iterator[UsbBack]:
    """The same, and a usbfront that does not wait long."""
    with machine.back(hasty=0.5) as back:
        back.connect({1: Gizmo()}).until_there(1)
        yield back


def reads(back: UsbBack, file: str, at: int, size: int = 512) -> tuple[str, str]:
    """What somebody says who reads from a disk."""
    return back.finish(back.start(READ, file, str(at), str(size)))


def good(size: int = 512, letter: bytes = b"z") -> tuple[str, str]:
    """What he says of honest bytes."""
    return f"{size} {letter * 4!r} True\n", ""


def stopping(back: UsbBack, setup: Setup, port: int = 1) -> Callable[[], bool]:
    """Answer all but one control transfer to a port; whether it has come."""

    def is_it(urb: Urb) -> bool:
        return (urb.pipe.port, urb.special) == (port, setup.emit())

    back.asked.clear()
    back.lie = lambda urb, answer: [] if is_it(urb) else [answer]
    return lambda: any(is_it(urb) for urb in back.asked)
