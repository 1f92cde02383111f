"""What tests of USB are given: a machine with guests, and an emulated device in a port that is in memory.

There is one bay for the tests of a file that leave it as it was; those that kill have one of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from xenusb.descriptors import TO_INTERFACE, Ask
from xenusb.gadget import Gadget
from xenusb.loopback import Loopback

from tests.usb.bay import Bay
from tests.usb.gadgets import DEVICES, image
from tests.usb.mass import Mass
from tests.usb.port import Port


@pytest.fixture(scope="module")
def bay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bay]:
    made = Bay(tmp_path_factory.mktemp("bay"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def domid(bay: Bay) -> int:
    """A guest with a loop-back in port 1."""
    made = bay.usb_guest("loopback:")
    bay.until_there(made, 1)
    return made


@pytest.fixture
def port() -> Iterator[Port]:
    with closing(Port()) as port:
        yield port


@pytest.fixture(params=DEVICES)
def gadget(request: pytest.FixtureRequest, port: Port, tmp_path: Path) -> Gadget:
    """Each of the devices, plugged in, not configured."""
    make, argument = DEVICES[request.param]
    return port.plug(make, argument(tmp_path), configure=False)


@pytest.fixture
def back(port: Port) -> Loopback:
    """A loopback whose interface has its endpoints."""
    device = port.plug(Loopback)
    port.tell(TO_INTERFACE, Ask.set_interface, 1)
    return device


@pytest.fixture
def mass(port: Port, tmp_path: Path) -> Mass:
    return Mass(port, image(tmp_path / "image"))
