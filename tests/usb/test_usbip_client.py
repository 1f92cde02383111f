"""USB/IP with servers: what a guest has of a device of another's, and how that ends."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from xenusb.client import Handle
from xenusb.descriptors import Setup
from xenusb.device import Packet
from xenusb.loopback import BULK, FETCH, HALT, INTERRUPT, ISOC, STORE, Loopback
from xenusb.stick import Stick
from xenusb.usbip import ECONNRESET
from xl import usb

from tests.block.conftest import need_loop
from tests.block.yard import in_mount, python, run
from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import LOOPBACK, Bay
from tests.usb.exporter import Exporter, count
from tests.usb.far import FAR, served, status_of, works
from tests.usb.peers import (
    AS_ROOT,
    CLEAR_FEATURE,
    IN,
    SET_INTERFACE,
    SETTING,
    VENDOR_IN,
    VENDOR_OUT,
    MiB,
    keeper,
    opened,
    pattern,
    plugged,
    refused,
    taken,
)
from tests.usb.vhci import Vhci
from xenfs.abi.usbif import Status
from xenfs.commands.failure import Unable
from xenfs.xenbus import Device

pytestmark = AS_ROOT


# Devices of others.


def test_a_servers_device_is_one_of_the_guests(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):
        assert bay.front_key(domid, "port/3") == "1209:5857 xenfs Loopback"
        assert status_of(bay, domid) == "connected high"
        assert handle.device().product == LOOPBACK
        assert [handle.string(number) for number in (1, 2, 3)] == ["xenfs", "Loopback", "1"]
        assert "ID 1209:5857 xenfs Loopback" in bay.stage.fine("lsusb", str(domid)).splitlines()[1]
        assert server.busy
    assert status_of(bay, domid) == "empty"
    assert not server.busy


def test_its_data_goes_both_ways(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (_, handle):
        handle.control(Setup(VENDOR_OUT, STORE, 0, 0, 4096), pattern(4096))
        assert handle.control(Setup(VENDOR_IN, FETCH, 0, 0, 5000)) == pattern(4096)
        for endpoint, size in ((BULK, 10), (BULK, 61440), (BULK, 300001), (INTERRUPT, 64)):
            assert handle.transfer(endpoint, pattern(size)).actual == size
            assert handle.transfer(IN | endpoint, size=size).data == pattern(size)
        handle.transfer(BULK, b"")
        assert handle.transfer(IN | BULK, size=8).data == b""


def test_its_packets_have_each_its_status(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (_, handle):
        out = [Packet(at, 4) for at in range(0, 24, 6)]
        said = handle.transfer(ISOC, b"good..lost..long..more..", packets=out)
        assert [(one.actual, one.status) for one in said.packets] == [(4, 0)] * 4
        got = handle.transfer(IN | ISOC, size=40, packets=[Packet(at, 6) for at in range(0, 40, 8)])
        statuses = [(one.actual, one.status) for one in got.packets]
        assert statuses == [(4, 0), (0, Status.ioerror), (0, Status.babble), (4, 0), (0, 0)]
        assert (got.data, got.actual, got.errors) == (b"goodmore", 8, 2)


def test_what_takes_too_long_is_taken_back(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):

        def waited() -> set[int]:
            return {one.number for one in server.submits if (one.endpoint, one.inward) == (BULK, True)}

        while len(waited()) < 3:
            assert refused(lambda: handle.transfer(IN | BULK, size=64, seconds=0.05)) == errno.ETIMEDOUT
        until(lambda: waited() == {one.value for one in server.unlinks}, SECONDS)
        handle.transfer(BULK, b"for the next")
        assert handle.transfer(IN | BULK, size=64).data == b"for the next"


def test_its_halts_are_cleared(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (_, handle):
        handle.control(Setup(VENDOR_OUT, HALT))
        for _ in range(2):
            assert refused(lambda: handle.transfer(IN | BULK, size=64)) == errno.EPIPE
        for address in (BULK, IN | BULK):
            handle.control(Setup(2, CLEAR_FEATURE, 0, address))
        handle.transfer(BULK, b"again")
        assert handle.transfer(IN | BULK, size=64).data == b"again"
        assert refused(lambda: handle.control(Setup(VENDOR_IN, 99, 0, 0, 8))) == errno.EPIPE


def test_it_is_reset(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):
        before = server.resets
        handle.transfer(BULK, b"forgotten")
        handle.control(Setup(0x23, 3, 4, 1))
        assert server.resets == before + 1
        handle.transfer(BULK, b"after it")
        assert handle.transfer(IN | BULK, size=64).data == b"after it"


def test_a_kernel_has_it_through_the_guest(bay: Bay, domid: int, peer: Vhci) -> None:
    with Exporter(Loopback) as server, plugged(bay, domid, FAR, server.text):
        taken(peer, "1-3")
        peer.control(1, SET_INTERFACE, 1, 0)
        peer.transfer(BULK, pattern(300000))
        assert peer.transfer(BULK, 300000).data == pattern(300000)
        waits = peer.submit(INTERRUPT, 64)
        until(lambda: count(server.submits, INTERRUPT, inward=True) == 1, SECONDS)
        assert peer.answer(peer.unlink(waits)).status == ECONNRESET
        until(lambda: bool(server.unlinks), SECONDS)


def test_a_filesystem_is_made_and_filled_on_a_servers_stick(bay: Bay, domid: int) -> None:
    need_loop()
    image, file, found = bay.image(32 * MiB, "far"), bay.folder / "far-file", bay.folder / "far-found"
    file.write_bytes(pattern(8 * MiB))
    with Exporter(Stick, str(image)) as server:
        with plugged(bay, domid, FAR, server.text):
            node = bay.block(domid, FAR)
            run("mkfs.ext4", "-q", node)
            in_mount(node, f"cp {file} /mnt/file; sync /mnt/file")
            assert status_of(bay, domid) == "connected high"
        assert (server.imports, server.said) == (1, [])
    run("e2fsck", "-fn", str(image))
    run("debugfs", "-R", f"dump /file {found}", str(image))
    assert found.read_bytes() == pattern(8 * MiB)


# How that ends.


@contextmanager
def failing(call: Callable[[], object]) -> Iterator[list[int | None]]:
    """Something that is done meanwhile, in a thread, and the errno with which it fails."""
    found: list[int | None] = []

    def attempt() -> None:
        try:
            call()
        except OSError as error:
            found.append(error.errno)

    thread = threading.Thread(target=attempt)
    thread.start()
    try:
        yield found
    finally:
        thread.join(SECONDS)


@pytest.mark.parametrize(("reset", "words"), [(False, "has ended the connection"), (True, "reset by peer")])
def test_a_server_that_goes_away_leaves_an_empty_port(bay: Bay, domid: int, words: str, *, reset: bool) -> None:
    back = bay.usb_back(domid)
    with served(bay, domid) as (server, handle):
        with failing(lambda: handle.transfer(IN | BULK, size=64)) as failed:
            until(lambda: count(server.submits, BULK, inward=True) == 1, SECONDS)
            server.drop(reset=reset)
        assert failed == [errno.ENODEV]
        until(lambda: status_of(bay, domid).startswith("error "), SECONDS)
        assert words in status_of(bay, domid)
        bay.until_gone(domid, FAR)
        assert refused(lambda: handle.control(SETTING)) == errno.ENODEV
        assert bay.usb_back(domid) == back
        assert works(bay, domid)
        bay.plug(domid, FAR, "")
        bay.plug(domid, FAR, server.text)
        bay.until_there(domid, FAR)
        assert server.imports == 2


def test_unplugging_lets_go_of_it(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):
        with failing(lambda: handle.transfer(IN | BULK, size=64)) as failed:
            until(lambda: count(server.submits, BULK, inward=True) == 1, SECONDS)
            bay.plug(domid, FAR, "")
        assert failed == [errno.ENODEV]
        until(lambda: not server.busy, SECONDS)


def test_one_device_is_in_one_port(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, _):
        with pytest.raises(Unable, match="in another port already"):
            bay.plug(domid, FAR + 1, server.text)
        assert server.imports == 1


def test_a_guest_may_end_meanwhile(bay: Bay) -> None:
    with Exporter(Loopback) as server:
        domid = bay.usb_guest(server.text, name="ending")
        try:
            bay.until_there(domid, 1)
            with opened(bay, domid, "1-1") as handle:
                handle.control(SETTING)
                with failing(lambda: handle.transfer(IN | BULK, size=64)) as failed:
                    until(lambda: count(server.submits, BULK, inward=True) == 1, SECONDS)
                    bay.stage.fine("destroy", str(domid))
                assert failed == [errno.ENODEV]
            until(lambda: not server.busy, SECONDS)
        finally:
            with suppress(AssertionError):
                bay.stage.fine("destroy", str(domid))


def test_usbback_dies_and_another_has_it(own: Bay) -> None:
    domid = own.usb_guest()
    with served(own, domid) as (server, handle):
        with failing(lambda: handle.transfer(IN | BULK, size=64)) as failed:
            until(lambda: count(server.submits, BULK, inward=True) == 1, SECONDS)
            own.kill_usb_back(domid)
        assert failed == [errno.ESHUTDOWN]
        until(lambda: _says(handle), SECONDS)
        assert server.imports == 2
        handle.transfer(BULK, b"as it was")
        assert handle.transfer(IN | BULK, size=64).data == b"as it was"


def _says(handle: Handle) -> bool:
    with suppress(OSError):
        return handle.device().product == LOOPBACK
    return False


# Two guests.


def test_a_guest_has_a_device_of_another_guests(own: Bay) -> None:
    need_loop()
    image = own.image(4 * MiB, "between")
    owner = own.usb_guest("loopback:", f"stick:{image}", name="owner")
    own.until_there(owner, 1)
    own.block(owner, 2)
    # whoever is to reach the owner's loopback is inside: a driver domain's usbback
    own.stage.spawn_in(keeper(own, owner), "-m", "xenfs", "devd", "-F", "--domain", str(owner))
    guest = own.stage.guest("guest", memory=16, usbctrl=(f"ports=4,backend={owner}",))
    far = Device("vusb", guest, 0, owner)
    own.stage.until_connected(far)
    address = own.front_key(owner, "xenfs-usbip")
    for port in (1, 2):
        usb.plug(own.stage.store, far, port, f"usbip:{address}/1-{port}")
        own.until_there(guest, port)
    assert not own.front_key(owner, "disk/2/xenfs-file"), "the disk is the other's now"
    with opened(own, guest, "1-1") as handle:
        handle.control(SETTING)
        handle.transfer(BULK, pattern(300000))
        assert handle.transfer(IN | BULK, size=300000).data == pattern(300000)
        handle.transfer(ISOC, b"goodlost", packets=[Packet(0, 4), Packet(4, 4)])
        got = handle.transfer(IN | ISOC, size=8, packets=[Packet(0, 4), Packet(4, 4)])
        assert [(one.actual, one.status) for one in got.packets] == [(4, 0), (0, Status.ioerror)]
        assert refused(lambda: handle.transfer(IN | BULK, size=64, seconds=0.05)) == errno.ETIMEDOUT
        with failing(lambda: handle.transfer(IN | BULK, size=64)) as failed:
            own.plug(owner, 1, "")
        assert failed == [errno.ENODEV]
    disk = own.block(guest, 2)
    code = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); os.write(fd, b'carried' * 100000); os.fsync(fd)"
    python(code, disk)
    assert image.read_bytes().startswith(b"carried" * 100000)
    usb.plug(own.stage.store, far, 2, "")
    own.block(owner, 2)
    assert own.stick(owner, 2).read_bytes() == image.read_bytes()
    own.stage.fine("destroy", "guest")
