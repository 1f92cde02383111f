"""What tests of USB are given: a machine with guests, an emulated device in a port that is in memory, a RealDevice.

There is one bay for the tests of a file that leave it as it was; those that kill have one of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from xenusb.descriptors import TO_INTERFACE, Ask
from xenusb.gadget import Gadget
from xenusb.loopback import Loopback

from tests.need import need_tool
from tests.usb.bay import Bay
from tests.usb.gadgets import DEVICES, image
from tests.usb.mass import Mass
from tests.usb.peers import SET_INTERFACE, line, taken
from tests.usb.port import Port
from tests.usb.real_program import Bench, need_libusb
from tests.usb.real_samples import SOUND
from tests.usb.vhci import Vhci


@pytest.fixture(scope="module")
def bay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bay]:
    made = Bay(tmp_path_factory.mktemp("bay"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bay]:
    """A bay for those that kill."""
    made = Bay(tmp_path_factory.mktemp("own"))
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


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Bench]]:
    """One for all, but another after a test that was its end."""
    need_tool("umockdev-run", "umockdev")
    need_libusb()
    made: list[Bench] = []

    def get() -> Bench:
        if not made or made[-1].process.poll() is not None:
            made.append(Bench(tmp_path_factory.mktemp("bench")))
        return made[-1]

    yield get
    for bench in made:
        bench.close()


@pytest.fixture
def empty(benches: Callable[[], Bench]) -> Iterator[Bench]:
    """With a device that is not plugged in yet."""
    bench = benches()
    with bench.having():
        yield bench


@pytest.fixture
def bench(empty: Bench) -> Bench:
    """With the device plugged in."""
    assert empty.plug() == {"event": "plugged", "speed": "high"}
    return empty


@pytest.fixture
def sound(bench: Bench) -> Bench:
    assert bench.set(Ask.set_interface, 1, SOUND, TO_INTERFACE) == ("ok", 0)
    return bench


@pytest.fixture
def peer(bay: Bay, domid: int) -> Iterator[Vhci]:
    """A connection that has no device yet."""
    with line(bay, domid) as found:
        yield found


@pytest.fixture
def vhci(peer: Vhci) -> Vhci:
    """One that has the loop-back, with its endpoints."""
    taken(peer, "1-1")
    assert peer.control(1, SET_INTERFACE, 1, 0).status == 0
    return peer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(1024))
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path
