"""USB/IP with others: what a kernel's vhci_hcd has of a guest's devices, and a guest of what a server exports."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from xenusb.client import Handle
from xenusb.descriptors import Setup
from xenusb.device import Packet
from xenusb.importing import receive
from xenusb.loopback import BULK, FETCH, HALT, INTERRUPT, ISOC, STORE, Loopback
from xenusb.stick import Stick
from xenusb.usbip import ECONNRESET, Code, Short, Submitted
from xl import usb

from tests.block.conftest import need_loop
from tests.block.yard import python, run
from tests.mounted.mount import until
from tests.need import need_tool
from tests.toolstack.stage import SECONDS
from tests.usb.bay import LOOPBACK, Bay
from tests.usb.exporter import Exporter, Liar, Tamper, count, drain, exported, reply
from tests.usb.vhci import SUBMITTED, UNLINKED, Answer, Vhci, connected
from xenfs.abi.usbif import Status
from xenfs.commands.failure import Unable
from xenfs.domain import Refused
from xenfs.xenbus import Device

pytestmark = [
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


def settled(bay: Bay, domid: int) -> bool:
    """Whether everything that usbfront has asked for is answered."""
    front, _ = bay.usb_stats(domid)
    return front.requests == front.responses


# The server: devices.


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


def test_devices_are_listed_with_their_interfaces(bay: Bay, domid: int, peer: Vhci) -> None:
    with stick(bay, domid, "listed"):
        found = peer.list()
    assert list(found) == ["1-1", "1-2"]
    one, two = found.values()
    assert (one.vendor, one.product, one.speed, one.klass) == (0x1209, 0x5857, 3, (0, 0, 0))
    assert (one.configuration, one.configurations, one.interfaces) == (1, 1, ((255, 0, 0),))
    assert (two.product, two.interfaces) == (0x5854, ((8, 6, 80),))
    assert one.devid >> 16 == two.devid >> 16 == 1
    assert one.devid != two.devid


def test_usbip_lists_a_stick_by_what_it_is(bay: Bay, domid: int) -> None:
    tool = need_tool("usbip", "usbip")
    host, _, port = bay.front_key(domid, "xenfs-usbip").partition(":")
    with stick(bay, domid, "by-usbip"):
        words = bay.stage.xenfs("exec", str(domid), "--", tool, f"--tcp-port={port}", "list", "-r", host).stdout
    assert "1-1:" in words
    assert "(1209:5857)" in words
    assert "1-2:" in words
    assert "(1209:5854)" in words
    assert "Mass Storage / SCSI / Bulk-Only (08/06/50)" in words


def test_another_controller_has_another_port(bay: Bay, domid: int) -> None:
    bay.stage.fine("usbctrl-attach", str(domid), "ports=2")
    second = Device("vusb", domid, 1)
    try:
        bay.stage.until_connected(second)
        usb.plug(bay.stage.store, second, 2, "loopback:")
        until(lambda: bay.stage.store.exists(f"{second.frontend_path}/port/2"), SECONDS)
        first, other = (
            bay.stage.store.read(f"{device.frontend_path}/xenfs-usbip").decode()
            for device in (bay.controller(domid), second)
        )
        assert (first, other) == ("127.0.0.1:3240", "127.0.0.1:3241")
        with connected(keeper(bay, domid), other) as vhci:
            assert list(vhci.list()) == ["2-2"]
            assert vhci.take("1-1") is None
            taken(vhci, "2-2")
            assert vhci.control(IN, GET_DESCRIPTOR, 0x100, 0, 18).actual == 18
    finally:
        bay.stage.fine("usbctrl-detach", str(domid), "1")


def test_an_import_says_what_the_list_says(peer: Vhci) -> None:
    listed = peer.list()["1-1"]
    found = None
    while found is None:
        found = peer.take("1-1")
    assert found.__dict__ == {**listed.__dict__, "interfaces": ()}


@pytest.mark.parametrize("bus_id", ["", "1-9", "2-1", "1-1.1", "x" * 32])
def test_what_is_not_there_is_refused_and_may_be_asked_again(peer: Vhci, bus_id: str) -> None:
    assert peer.take(bus_id) is None
    assert peer.take(bus_id) is None
    taken(peer, "1-1")


# Control transfers.


def test_enumeration(peer: Vhci) -> None:
    taken(peer, "1-1")
    device = peer.control(IN, GET_DESCRIPTOR, 0x100, 0, 64).data
    assert (len(device), device[8:12].hex()) == (18, "09125758")
    head = peer.control(IN, GET_DESCRIPTOR, 0x200, 0, 9).data
    total = int.from_bytes(head[2:4], "little")
    whole = peer.control(IN, GET_DESCRIPTOR, 0x200, 0, total).data
    assert len(whole) == total
    texts = [peer.control(IN, GET_DESCRIPTOR, 0x300 | number, 0x409, 255).data for number in device[14:17]]
    assert [text[2:].decode("utf-16-le") for text in texts] == ["xenfs", "Loopback", "1"]
    assert peer.control(0, SET_CONFIGURATION, 1).status == 0
    assert peer.control(IN, GET_CONFIGURATION, 0, 0, 1).data == b"\1"
    assert peer.control(1, SET_INTERFACE, 1, 0).status == 0
    assert peer.control(IN | 1, GET_INTERFACE, 0, 0, 1).data == b"\1"
    assert peer.control(IN, GET_STATUS, 0, 0, 2).data == b"\0\0"


def test_control_transfers_of_the_vendor_both_ways(vhci: Vhci) -> None:
    said = vhci.control(VENDOR_OUT, STORE, 0, 0, pattern(4096))
    assert (said.status, said.actual, said.data) == (0, 4096, b"")
    assert vhci.control(VENDOR_IN, FETCH, 0, 0, 5000).data == pattern(4096)
    assert vhci.control(VENDOR_IN, FETCH, 0, 0, 7).data == pattern(7)


def test_a_request_that_is_none_stalls(vhci: Vhci) -> None:
    assert vhci.control(VENDOR_IN, 99, 0, 0, 8).status == Status.stall
    assert vhci.control(IN, GET_DESCRIPTOR, 0x300 | 9, 0, 255).status == Status.stall
    assert vhci.control(0, SET_CONFIGURATION, 7).status == Status.stall
    assert vhci.control(1, SET_INTERFACE, 9, 0).status == Status.stall


def test_the_address_is_the_guests_to_give(vhci: Vhci) -> None:
    assert vhci.control(0, SET_ADDRESS, 5).status == Status.stall
    assert vhci.control(IN, GET_CONFIGURATION, 0, 0, 1).data == b"\1"


# Data.


@pytest.mark.parametrize(("endpoint", "size"), [(BULK, 5000), (INTERRUPT, 64)])
def test_data_goes_both_ways(vhci: Vhci, endpoint: int, size: int) -> None:
    sent = vhci.transfer(endpoint, pattern(size))
    assert (sent.status, sent.actual, sent.data) == (0, size, b"")
    got = vhci.transfer(endpoint, size + 100)
    assert (got.status, got.actual, got.data) == (0, size, pattern(size))


def test_an_answer_may_be_empty(vhci: Vhci) -> None:
    assert vhci.transfer(BULK, b"").actual == 0
    assert vhci.transfer(BULK, 64) == Answer(3, vhci.number, 0)


def test_isochronous_packets_come_without_gaps_and_each_with_its_status(vhci: Vhci) -> None:
    places = [(at, 4) for at in range(0, 24, 6)]
    out = vhci.transfer(ISOC, b"good..lost..long..more..", packets=places)
    assert (out.status, out.actual, out.errors, out.packets) == (0, 16, 0, ((4, 4, 0),) * 4)
    got = vhci.transfer(ISOC, 40, packets=[(at, 6) for at in range(0, 40, 8)])
    assert got.packets == ((6, 4, 0), (6, 0, Status.ioerror), (6, 0, Status.babble), (6, 4, 0), (6, 0, 0))
    assert (got.status, got.actual, got.errors, got.data) == (0, 8, 2, b"goodmore")


@pytest.mark.parametrize(
    ("size", "packets"), [(8, [(0, 9)]), (8, [(8, 1)]), (8, [(0, 4), (0xFFFFFFFF, 4)]), (8, [(2, 0xFFFFFFFF)])]
)
def test_a_packet_outside_its_buffer_is_refused(vhci: Vhci, size: int, packets: list[tuple[int, int]]) -> None:
    assert vhci.transfer(ISOC, size, packets=packets).status == Status.inval
    assert vhci.transfer(ISOC, bytes(size), packets=packets).status == Status.inval


def test_what_does_not_go_with_an_endpoint_is_refused(vhci: Vhci) -> None:
    assert vhci.transfer(9, b"there is none").status == -errno.ENOENT
    assert vhci.transfer(9, 64).status == -errno.ENOENT
    assert vhci.transfer(ISOC, b"without packets").status == Status.inval
    assert vhci.transfer(BULK, b"with packets", packets=[(0, 12)]).status == Status.inval
    assert vhci.control(1, SET_INTERFACE, 0, 0).status == 0
    assert vhci.transfer(BULK, b"not in this setting").status == -errno.ENOENT


@pytest.mark.parametrize("size", [61440, 61441, 1 << 16, 300001, 3 * MiB])
def test_transfers_may_be_larger_than_a_request_of_the_ring(vhci: Vhci, size: int) -> None:
    sent = vhci.transfer(BULK, pattern(size))
    assert (sent.status, sent.actual) == (0, size)
    got = vhci.transfer(BULK, size)
    assert (got.status, got.actual) == (0, size)
    assert got.data == pattern(size)


def test_a_short_answer_ends_a_large_transfer(vhci: Vhci) -> None:
    vhci.transfer(BULK, pattern(61440 + 100))
    vhci.transfer(BULK, b"the next")
    got = vhci.transfer(BULK, 300000)
    assert (got.status, got.actual, got.data) == (0, 61540, pattern(61540))
    assert vhci.transfer(BULK, 64).data == b"the next"


@pytest.mark.parametrize("size", [64, 300000])
def test_a_short_answer_is_an_error_for_whoever_says_so(vhci: Vhci, size: int) -> None:
    vhci.transfer(BULK, b"short")
    assert vhci.transfer(BULK, size, flags=1).status == Status.ioerror
    vhci.transfer(BULK, pattern(61440 + 100))
    vhci.transfer(BULK, b"short")
    got = vhci.transfer(BULK, 61440 + 100, flags=1)
    assert (got.status, got.data) == (0, pattern(61440 + 100))
    assert vhci.transfer(BULK, 5, flags=1).data == b"short"


def test_many_transfers_at_once_keep_their_order(vhci: Vhci) -> None:
    sent = [vhci.submit(BULK, number.to_bytes(2, "little") * 512) for number in range(60)]
    wanted = [vhci.submit(BULK, 1024) for _ in range(60)]
    assert {vhci.answer(number).status for number in sent} == {0}
    for number, one in enumerate(wanted):
        assert vhci.answer(one).data == number.to_bytes(2, "little") * 512


def test_answers_come_when_they_come(vhci: Vhci) -> None:
    waits = vhci.submit(INTERRUPT, 64)
    for _ in range(3):
        assert vhci.control(IN, GET_CONFIGURATION, 0, 0, 1).data == b"\1"
    assert waits not in vhci.come
    vhci.transfer(INTERRUPT, b"now")
    assert vhci.answer(waits).data == b"now"


def test_numbers_begin_anew_when_they_are_used_up(vhci: Vhci) -> None:
    for number in (0xFFFFFFFF, 0, 7):
        vhci.socket.sendall(vhci.message(number, BULK, b"number"))
        assert vhci.answer(number).actual == 6
        vhci.socket.sendall(vhci.message(number, BULK, 64))
        assert vhci.answer(number).data == b"number"


# Taking back.


@pytest.mark.parametrize(("endpoint", "size"), [(BULK, 512), (BULK, MiB), (INTERRUPT, 64)])
def test_what_is_unlinked_in_flight_is_answered_by_that_alone(vhci: Vhci, endpoint: int, size: int) -> None:
    waits = vhci.submit(endpoint, size)
    own = vhci.unlink(waits)
    assert vhci.next() == Answer(UNLINKED, own, ECONNRESET)
    vhci.transfer(endpoint, b"for another")
    assert vhci.transfer(endpoint, 64).data == b"for another"
    assert vhci.come == {}


def test_what_is_unlinked_too_late_is_over(vhci: Vhci) -> None:
    for data in (b"done", 64):
        done = vhci.submit(BULK, data)
        vhci.answer(done)
        own = vhci.unlink(done)
        assert vhci.next() == Answer(UNLINKED, own, 0)


def test_what_was_never_asked_is_over_too(vhci: Vhci) -> None:
    own = vhci.unlink(77777)
    assert vhci.next() == Answer(UNLINKED, own, 0)


def test_one_of_many_is_unlinked(vhci: Vhci) -> None:
    waits = [vhci.submit(INTERRUPT, 64) for _ in range(5)]
    assert vhci.answer(vhci.unlink(waits.pop(2))).status == ECONNRESET
    for number in range(4):
        vhci.transfer(INTERRUPT, bytes([number]))
    assert [vhci.answer(one).data for one in waits] == [bytes([number]) for number in range(4)]


@pytest.mark.parametrize("size", [10, 40, 200])
def test_all_of_many_are_unlinked(vhci: Vhci, size: int) -> None:
    waits = [vhci.submit(INTERRUPT, 64) for _ in range(size)]
    owns = [vhci.unlink(one) for one in reversed(waits)]
    assert {vhci.answer(own).status for own in owns} == {ECONNRESET}
    vhci.transfer(INTERRUPT, b"alone")
    assert vhci.transfer(INTERRUPT, 64).data == b"alone"
    assert vhci.come == {}


def test_a_large_transfer_is_unlinked_between_its_pieces(vhci: Vhci) -> None:
    endless = vhci.submit(BULK, bytes(4 * MiB))  # more than the device takes
    assert vhci.control(IN, GET_CONFIGURATION, 0, 0, 1).data == b"\1"
    assert vhci.answer(vhci.unlink(endless)).status == ECONNRESET
    assert vhci.control(IN, GET_CONFIGURATION, 0, 0, 1).data == b"\1"
    assert vhci.come == {}


def test_whoever_unlinks_twice_is_answered_twice(vhci: Vhci) -> None:
    waits = vhci.submit(INTERRUPT, 64)
    owns = [vhci.unlink(waits), vhci.unlink(waits)]
    assert {vhci.answer(own).code for own in owns} == {UNLINKED}
    assert vhci.come == {}


def test_what_cannot_be_taken_back_is_answered_first(bay: Bay, domid: int, peer: Vhci) -> None:
    with plugged(bay, domid, 2, "python:tests.usb.slow:Slow:"):
        taken(peer, "1-2")
        setting = peer.ask(1, SET_INTERFACE, 1, 0)
        own = peer.unlink(setting)
        going_on = peer.ask(IN, GET_STATUS, 0, 0, 2)
        found = [peer.next() for _ in range(3)]
        assert {one.number for one in found} == {setting, own, going_on}
        assert [(one.code, one.status) for one in found if one.number != going_on] == [(SUBMITTED, 0), (UNLINKED, 0)]
        assert peer.transfer(BULK, b"in its setting").status == 0


# Resets and halts.


def test_a_reset_ends_what_was_asked_for_and_keeps_the_settings(vhci: Vhci) -> None:
    vhci.transfer(BULK, b"forgotten")
    waits = [vhci.submit(INTERRUPT, 64) for _ in range(3)]
    assert vhci.control(0x23, 3, 4, 1).status == 0
    assert {vhci.answer(one).status for one in waits} == {Status.shutdown}
    assert vhci.control(IN | 1, GET_INTERFACE, 0, 0, 1).data == b"\1"
    vhci.transfer(BULK, b"after it")
    assert vhci.transfer(BULK, 64).data == b"after it"


def test_a_halt_is_cleared(vhci: Vhci) -> None:
    waits = vhci.submit(BULK, 64)
    assert vhci.control(VENDOR_OUT, HALT).status == 0
    assert vhci.answer(waits).status == Status.stall
    for _ in range(2):
        assert vhci.transfer(BULK, 64).status == Status.stall
        assert vhci.transfer(BULK, b"no").status == Status.stall
    for address in (BULK, IN | BULK):
        assert vhci.control(IN | 2, GET_STATUS, 0, address, 2).data == b"\1\0"
        assert vhci.control(2, CLEAR_FEATURE, 0, address).status == 0
        assert vhci.control(IN | 2, GET_STATUS, 0, address, 2).data == b"\0\0"
    vhci.transfer(BULK, b"again")
    assert vhci.transfer(BULK, 64).data == b"again"


# Whose it is.


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


def test_an_import_is_exclusive(bay: Bay, domid: int, vhci: Vhci) -> None:
    with line(bay, domid) as other:
        assert list(other.list()) == ["1-1"], "it is listed all the same"
        assert other.take("1-1") is None
        assert refused(lambda: opened(bay, domid, "1-1")) == errno.ENODEV
        vhci.socket.close()
        taken(other, "1-1")


def test_whoever_has_it_open_has_nothing_of_it_while_it_is_imported(bay: Bay, domid: int, peer: Vhci) -> None:
    with opened(bay, domid, "1-1") as handle:
        taken(peer, "1-1")
        assert refused(lambda: handle.own(Code.claim, 0)) == errno.EBUSY
        peer.control(1, SET_INTERFACE, 1, 0)
        peer.transfer(BULK, b"not yours")
        assert refused(lambda: handle.transfer(IN | BULK, size=64)) == errno.EBUSY
        assert refused(lambda: handle.control(Setup(2, CLEAR_FEATURE, 0, IN | BULK))) == errno.EBUSY
        for setup in (SETTING, Setup(0, SET_CONFIGURATION, 1), Setup(0x23, 3, 4)):
            assert answer(handle, setup) == errno.EBUSY
        assert peer.transfer(BULK, 64).data == b"not yours"
        peer.socket.close()
        until(lambda: _claims(handle), SECONDS)


def _claims(handle: Handle) -> bool:
    with suppress(OSError):
        return handle.own(Code.claim, 0) == 0
    return False


def test_what_a_program_has_claimed_is_not_given(bay: Bay, domid: int, peer: Vhci) -> None:
    with opened(bay, domid, "1-1") as handle:
        until(lambda: _claims(handle), SECONDS)
        assert peer.take("1-1") is None
        handle.own(Code.release, 0)
        taken(peer, "1-1")


def test_what_a_program_has_used_is_not_given_until_it_ends(bay: Bay, domid: int, peer: Vhci) -> None:
    with opened(bay, domid, "1-1") as handle:
        handle.control(SETTING)
        handle.transfer(BULK, b"mine")
        assert peer.take("1-1") is None
    taken(peer, "1-1")


def test_a_programs_interface_is_not_changed_by_another(bay: Bay, domid: int) -> None:
    with opened(bay, domid, "1-1") as handle, opened(bay, domid, "1-1") as other:
        until(lambda: _claims(handle), SECONDS)
        handle.control(SETTING)
        for setup in (Setup(1, SET_INTERFACE, 0, 0), Setup(0, SET_CONFIGURATION, 1), Setup(0x23, 3, 4)):
            assert answer(other, setup) == errno.EBUSY
        handle.transfer(BULK, b"as it was")
        assert handle.transfer(IN | BULK, size=64).data == b"as it was"


def test_whoever_comes_next_has_the_device_as_just_plugged_in(bay: Bay, domid: int, vhci: Vhci) -> None:
    vhci.transfer(BULK, b"left behind")
    vhci.control(VENDOR_OUT, HALT)
    assert vhci.control(0, SET_CONFIGURATION, 0).status == 0
    vhci.socket.close()
    with line(bay, domid) as other:
        taken(other, "1-1")
        assert other.control(IN, GET_CONFIGURATION, 0, 0, 1).data == b"\1"
        assert other.control(IN | 1, GET_INTERFACE, 0, 0, 1).data == b"\0"
        assert other.control(1, SET_INTERFACE, 1, 0).status == 0
        other.transfer(BULK, b"new")
        assert other.transfer(BULK, 64).data == b"new"


# A stick.


def command(words: bytes, size: int, *, inward: bool, tag: int = 7) -> bytes:
    """A command of the bulk-only transport."""
    return struct.pack("<4sIIBBB16s", b"USBC", tag, size, 0x80 if inward else 0, 0, len(words), words.ljust(16, b"\0"))


def test_importing_a_stick_takes_its_disk_away_and_closing_gives_it_back(bay: Bay, domid: int, peer: Vhci) -> None:
    with stick(bay, domid, "imported") as image:
        before = bay.stick(domid, 2)
        python("import sys; f = open(sys.argv[1], 'r+b'); f.write(b'by the disk'); f.close()", str(before))
        taken(peer, "1-2")
        assert not bay.front_key(domid, "disk/2/xenfs-file")
        assert not bay.front_key(domid, "disk/2/xenfs-device")
        assert not os.path.ismount(before)
        peer.transfer(2, command(struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0), 512, inward=True))
        assert peer.transfer(1, 512).data.startswith(b"by the disk")
        assert peer.transfer(1, 13).data == struct.pack("<4sIIB", b"USBS", 7, 0, 0)
        peer.transfer(2, command(struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 1, 0), 512, inward=False))
        peer.transfer(2, b"by the import".ljust(512, b"."))
        assert peer.transfer(1, 13).data[-1] == 0
        peer.socket.close()
        bay.block(domid, 2)
        after = bay.stick(domid, 2)
        assert after != before
        said = python("import sys; print(open(sys.argv[1], 'rb').read(13))", str(after))
        assert said == "b'by the import'\n"
        assert image.read_bytes().startswith(b"by the import...")


def test_a_stick_whose_disk_is_mounted_is_not_given(bay: Bay, domid: int, peer: Vhci) -> None:
    mount = bay.folder / "mounted"
    mount.mkdir()
    with stick(bay, domid, "mounted-image", 16 * MiB):
        node = bay.block(domid, 2)
        run("mkfs.ext4", "-q", node)
        run("mount", node, str(mount))
        try:
            assert peer.take("1-2") is None
            assert bay.front_key(domid, "disk/2/xenfs-device") == node
            (mount / "file").write_text("still there")
            assert peer.take("1-2") is None
        finally:
            run("umount", str(mount))
        taken(peer, "1-2")
        peer.socket.close()
        run("e2fsck", "-fn", bay.block(domid, 2))


def test_a_stick_is_given_before_its_disk_is_there(bay: Bay, domid: int) -> None:
    need_loop()
    image = bay.image(MiB, "early")
    for _ in range(5):
        with line(bay, domid) as peer, plugged(bay, domid, 2, f"stick:{image}"):
            taken(peer, "1-2")
            peer.transfer(2, command(struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0), 512, inward=True))
            assert peer.transfer(1, 512).actual == 512
            assert peer.transfer(1, 13).data == struct.pack("<4sIIB", b"USBS", 7, 0, 0)


@pytest.mark.parametrize("how", ["close", "die"])
@pytest.mark.parametrize(("opcode", "inward"), [(0x2A, False), (0x28, True)])
def test_a_stick_is_given_back_well_in_the_middle_of_a_command(
    bay: Bay, domid: int, peer: Vhci, how: str, opcode: int, *, inward: bool
) -> None:
    with stick(bay, domid, f"interrupted-{how}-{opcode}") as image:
        image.write_bytes(pattern(MiB))
        taken(peer, "1-2")
        words = struct.pack(">BBIBHB", opcode, 0, 0, 0, 128, 0)
        assert peer.transfer(2, command(words, 1 << 16, inward=inward)).status == 0
        began = time.monotonic()
        peer.die() if how == "die" else peer.socket.close()
        node = bay.block(domid, 2)
        assert time.monotonic() - began < 10
        python("import sys; assert len(open(sys.argv[1], 'rb').read()) == 1 << 20", node)
        assert image.read_bytes() == pattern(MiB)


@pytest.mark.parametrize(("opcode", "inward"), [(0x2A, False), (0x28, True)])
def test_a_program_may_end_in_the_middle_of_a_command(bay: Bay, domid: int, opcode: int, *, inward: bool) -> None:
    with stick(bay, domid, f"by-program-{opcode}") as image:
        image.write_bytes(pattern(MiB))
        with opened(bay, domid, "1-2") as handle:
            handle.own(Code.detach_driver, 0)
            words = struct.pack(">BBIBHB", opcode, 0, 0, 0, 128, 0)
            handle.transfer(2, command(words, 1 << 16, inward=inward))
        with opened(bay, domid, "1-2") as handle:
            assert len(handle.configurations()) == 1, "it may be had at once"
        began = time.monotonic()
        node = bay.block(domid, 2)
        assert time.monotonic() - began < 10
        python("import sys; assert len(open(sys.argv[1], 'rb').read()) == 1 << 20", node)
        assert image.read_bytes() == pattern(MiB)


def test_a_stick_that_was_left_without_a_configuration_has_its_disk_again(bay: Bay, domid: int, peer: Vhci) -> None:
    with stick(bay, domid, "unconfigured"):
        taken(peer, "1-2")
        assert peer.control(0, SET_CONFIGURATION, 0).status == 0
        peer.socket.close()
        bay.block(domid, 2)


# Programs of the guest.


def test_whoever_sends_does_not_keep_others_from_their_answers() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    sent, got = bytes(4 * MiB), list[int]()

    with ours, theirs, Handle(ours, exported()) as handle:
        takes = threading.Thread(target=lambda: got.append(handle.transfer(IN | BULK, size=4 * MiB).actual))
        takes.start()
        receive(theirs, 48)
        sends = threading.Thread(target=lambda: got.append(handle.transfer(BULK, sent).actual))
        sends.start()
        receive(theirs, 48)  # the head is there, and the data does not go on
        theirs.sendall(Submitted(1, 0, 4 * MiB, sent).emit())
        takes.join(SECONDS)
        receive(theirs, 4 * MiB)
        theirs.sendall(Submitted(2, 0, 1).emit())
        sends.join(SECONDS)
        assert got == [4 * MiB, 1]


def test_nothing_is_kept_of_what_took_too_long(bay: Bay, domid: int) -> None:
    with opened(bay, domid, "1-1") as handle:
        until(lambda: _claims(handle), SECONDS)
        handle.control(SETTING)
        for _ in range(20):
            assert refused(lambda: handle.transfer(IN | INTERRUPT, size=64, seconds=0.001)) == errno.ETIMEDOUT
        assert not handle._answers.inward
        handle.transfer(INTERRUPT, b"not taken by them")
        assert handle.transfer(IN | INTERRUPT, size=64).data == b"not taken by them"


# How it ends.


@pytest.mark.parametrize("waiting", [1, 20, 100])
def test_a_connection_that_dies_leaves_nothing(bay: Bay, domid: int, vhci: Vhci, waiting: int) -> None:
    for _ in range(waiting):
        vhci.submit(INTERRUPT, 64)
    vhci.submit(BULK, 3 * MiB)
    vhci.submit(BULK, bytes(3 * MiB))
    vhci.socket.sendall(vhci.message(5000, BULK, bytes(1000))[:100])
    vhci.die()
    with line(bay, domid) as other:
        taken(other, "1-1")
        other.control(1, SET_INTERFACE, 1, 0)
        for endpoint in (INTERRUPT, BULK):
            other.transfer(endpoint, b"mine")
            assert other.transfer(endpoint, 64).data == b"mine"
        until(lambda: settled(bay, domid), SECONDS)
    with line(bay, domid) as last:
        assert list(last.list()) == ["1-1"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 39])
def test_a_connection_may_end_at_any_byte_of_its_question(bay: Bay, domid: int, size: int) -> None:
    asked = struct.pack(">HHI32s", 0x0111, 0x8003, 0, b"1-1")
    for dies in (False, True):
        with line(bay, domid) as vhci:
            vhci.socket.sendall(asked[:size])
            vhci.die() if dies else vhci.socket.close()
    with line(bay, domid) as vhci:
        taken(vhci, "1-1")


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", bytes(8), struct.pack(">HHI", 0x0106, 0x8005, 0), b"\xff" * 400]
)
def test_whoever_speaks_something_else_is_left_alone(bay: Bay, peer: Vhci, said: bytes) -> None:
    front = bay.usb_front()
    peer.socket.sendall(said)
    assert peer.ended()
    assert bay.usb_front() == front


def bad_messages() -> dict[str, bytes]:
    """What no client says to a device."""
    submit = struct.Struct(">IIIIIIiiii8s")
    fields = (1, 9, 0x10001, 0, 1, 0, 4, 0, 0, 0, bytes(8))
    changed = {
        "no such command": (0, 5),
        "an answer": (0, 3),
        "a claim": (0, Code.claim),
        "a driver let go": (0, Code.detach_driver),
        "a direction of 2": (3, 2),
        "endpoint 16": (4, 16),
        "four gigabytes": (6, -1),
        "five megabytes": (6, 5 * MiB),
        "a million packets": (8, 1 << 20),
        "minus seven packets": (8, -7),
    }
    return {name: submit.pack(*fields[:at], value, *fields[at + 1 :]) for name, (at, value) in changed.items()}


@pytest.mark.parametrize("name", bad_messages())
def test_a_message_that_is_none_ends_the_connection(bay: Bay, domid: int, vhci: Vhci, name: str) -> None:
    vhci.submit(INTERRUPT, 64)
    vhci.socket.sendall(bad_messages()[name])
    assert vhci.ended()
    with line(bay, domid) as other:
        taken(other, "1-1")


def test_a_number_twice_at_once_ends_the_connection(vhci: Vhci) -> None:
    vhci.socket.sendall(vhci.message(5, INTERRUPT, 64) + vhci.message(5, INTERRUPT, 64))
    assert vhci.ended()


def test_unplugging_closes_the_connection(bay: Bay, domid: int, vhci: Vhci) -> None:
    waits = vhci.submit(INTERRUPT, 64)
    bay.plug(domid, 1, "")
    try:
        with suppress(EOFError, ConnectionResetError):
            assert vhci.answer(waits).status in (Status.nodev, Status.shutdown)
            vhci.next()
        bay.until_gone(domid, 1)
        with line(bay, domid) as other:
            assert other.list() == {}
            assert other.take("1-1") is None
    finally:
        bay.plug(domid, 1, "loopback:")
        bay.until_there(domid, 1)


def test_more_connections_than_there_is_room_for_are_closed(bay: Bay, domid: int, peer: Vhci) -> None:
    with ExitStack() as held:
        others = [held.enter_context(line(bay, domid)) for _ in range(140)]
        for other in others[-5:]:
            assert other.ended()
        assert list(others[0].list()) == ["1-1"]
        taken(peer, "1-1")
    with line(bay, domid) as last:
        until(lambda: list(last.list()) == ["1-1"], SECONDS)


def test_answers_that_nobody_takes_stop_the_questions(bay: Bay, domid: int, vhci: Vhci) -> None:
    size = 60000
    vhci.control(VENDOR_OUT, STORE, 0, 0, pattern(size))
    asked = vhci.message(1, 0, size, setup=struct.pack("<BBHHH", VENDOR_IN, FETCH, 0, 0, size))
    vhci.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        for number in range(100, 200_000):
            vhci.socket.sendall(asked[:4] + number.to_bytes(4, "big") + asked[8:])
            sent += 1
    assert sent < 199_000, "it goes on asking"
    memory = int(Path(f"/proc/{bay.usb_front()}/statm").read_text().split()[1]) * 4096
    assert memory < 100 * MiB
    vhci.die()
    with line(bay, domid) as other:
        taken(other, "1-1")


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bay]:
    """A bay for those that kill."""
    made = Bay(tmp_path_factory.mktemp("own"))
    try:
        yield made
    finally:
        made.close()


def test_an_import_outlives_usbback(own: Bay) -> None:
    domid = own.usb_guest("loopback:")
    own.until_there(domid, 1)
    with line(own, domid) as vhci:
        taken(vhci, "1-1")
        vhci.control(1, SET_INTERFACE, 1, 0)
        for _ in range(2):
            waits = [vhci.submit(INTERRUPT, 64), vhci.submit(BULK, 300000)]
            vhci.control(IN, GET_STATUS, 0, 0, 2)
            own.kill_usb_back(domid)
            assert {vhci.answer(one).status for one in waits} == {Status.shutdown}
            until(lambda: vhci.control(IN, GET_STATUS, 0, 0, 2).status == 0, SECONDS)
            assert vhci.control(IN | 1, GET_INTERFACE, 0, 0, 1).data == b"\1", "as it was"
            vhci.transfer(BULK, b"again")
            assert vhci.transfer(BULK, 64).data == b"again"
        with line(own, domid) as other:
            assert other.take("1-1") is None


def test_usbfront_dies_and_the_connection_with_it(own: Bay) -> None:
    domid = own.usb_guest("loopback:")
    own.until_there(domid, 1)
    with line(own, domid) as vhci, opened(own, domid, "1-1") as handle:
        taken(vhci, "1-1")
        front = own.usb_front()
        os.kill(front, signal.SIGKILL)
        assert vhci.ended()
        assert answer(handle, SETTING) == errno.ENODEV
        until(lambda: own.usb_front() != front, SECONDS)
        own.stage.until_connected(own.controller(domid))
    own.until_there(domid, 1)
    until(lambda: own.places(domid) != [], SECONDS)
    with line(own, domid) as vhci:
        taken(vhci, "1-1")


# The client: devices of others.

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
        until(lambda: _claims(handle), SECONDS)
        handle.control(SETTING)
        handle.transfer(BULK, b"here")
        return handle.transfer(IN | BULK, size=64).data == b"here"


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
    image, mount = bay.image(32 * MiB, "far"), bay.folder / "far-mount"
    mount.mkdir()
    with Exporter(Stick, str(image)) as server:
        with plugged(bay, domid, FAR, server.text):
            node = bay.block(domid, FAR)
            run("mkfs.ext4", "-q", node)
            run("mount", node, str(mount))
            try:
                (mount / "file").write_bytes(pattern(8 * MiB))
                python("import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))", f"{mount}/file")
            finally:
                run("umount", str(mount))
            assert status_of(bay, domid) == "connected high"
        assert (server.imports, server.said) == (1, [])
    run("e2fsck", "-fn", str(image))
    run("debugfs", "-R", f"dump /file {mount}/file", str(image))
    assert (mount / "file").read_bytes() == pattern(8 * MiB)


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


# Servers that do not do what they should.


def not_plugged(bay: Bay, domid: int, text: str) -> str:
    """Why something cannot be in a port."""
    with pytest.raises(Unable) as caught:
        bay.plug(domid, FAR, text)
    until(lambda: status_of(bay, domid) == "empty", SECONDS)
    return str(caught.value)


def silent(connection: socket.socket) -> None:
    drain(connection)


def dribbling(connection: socket.socket) -> None:
    """As slow as it goes without being silent."""
    connection.recv(100)
    with suppress(OSError):
        for byte in reply(0, exported()):
            connection.sendall(bytes([byte]))
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                if not connection.recv(1):
                    return


def saying(data: bytes) -> Callable[[socket.socket], None]:
    """Whatever is asked."""

    def does(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(data)
        drain(connection)

    return does


def ending(data: bytes) -> Callable[[socket.socket], None]:
    """The same, and then it goes away."""

    def does(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(data)

    return does


REFUSALS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "refuses": (saying(reply(1)), "the server does not give it"),
    "says nothing": (silent, "timed out"),
    "says a byte from time to time": (dribbling, "timed out"),
    "goes away": (ending(b""), "has ended the connection"),
    "goes away in the middle": (ending(reply(0, exported())[:100]), "has ended the connection"),
    "speaks HTTP": (saying(b"HTTP/1.0 400 Bad Request\r\n\r\n"), "the server answers 0x"),
    "speaks another version": (saying(reply(0, exported(), version=0x0106)), "in version 106"),
    "answers another question": (saying(struct.pack(">HHII", 0x0111, 5, 0, 0)), "the server answers 0x5"),
    **{
        f"has a device of speed {speed}": (saying(reply(0, exported(speed=speed))), f"its speed is {speed}, which")
        for speed in (0, 4, 5, 6, 0xFFFFFFFF)
    },
}


@pytest.mark.parametrize("name", REFUSALS)
def test_why_there_is_no_device(bay: Bay, domid: int, name: str) -> None:
    does, words = REFUSALS[name]
    back = bay.usb_back(domid)
    with Liar(does) as server:
        began = time.monotonic()
        said = not_plugged(bay, domid, server.text)
        assert words in said
        assert f"port 3: {server.text.removeprefix('usbip:')}: " in said
        assert time.monotonic() - began < 9
        assert server.came == 1
    assert bay.usb_back(domid) == back
    assert works(bay, domid)


def test_while_a_server_is_silent_other_ports_go_on(bay: Bay, domid: int) -> None:
    controller = bay.controller(domid)
    with Liar(silent) as server:
        bay.stage.store.write(f"{controller.backend_path}/port/{FAR}", server.text)
        until(lambda: server.came == 1, SECONDS)
        assert works(bay, domid)
        assert status_of(bay, domid) == "connecting"
        assert not bay.front_key(domid, f"port/{FAR}")
        bay.plug(domid, FAR, "")
    assert status_of(bay, domid) == "empty"


def test_nobody_listens(bay: Bay, domid: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "Connection refused" in not_plugged(bay, domid, f"usbip:127.0.0.1:{port}/1-1")
    assert "UnicodeError" in not_plugged(bay, domid, "usbip:no..name/1-1")
    assert works(bay, domid)


def test_a_device_with_a_number_that_is_too_large(bay: Bay, domid: int) -> None:
    devids: list[int] = []

    def does(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(reply(0, exported(bus=0xFFFFFFFF)))
        devids.append(int.from_bytes(receive(connection, 48)[8:12], "big"))
        drain(connection)

    with Liar(does) as server:
        bay.plug(domid, FAR, server.text)
        until(lambda: bool(devids), SECONDS)
        assert devids == [0xFFFF0004], "as Linux has it"
        assert status_of(bay, domid) == "connected high"
        bay.plug(domid, FAR, "")


def lie(**changed: object) -> Tamper:
    """An answer with other fields."""
    return lambda _, answer: replace(answer, **changed).emit()  # type: ignore[arg-type]


def packets(change: Callable[[list[Packet]], list[Packet]]) -> Tamper:
    """An answer with other packets."""
    return lambda _, answer: replace(answer, packets=tuple(change(list(answer.packets)))).emit()


BULK_LIES: dict[str, tuple[Tamper, str]] = {
    "a number never asked": (lambda _, answer: replace(answer, number=answer.number + 99).emit(), "not asked for"),
    "the same twice": (lambda _, answer: answer.emit() * 2, "not asked for"),
    "more than asked": (lie(actual=65, data=bytes(65)), "65 bytes"),
    "much more than asked": (lie(actual=1 << 22, data=bytes(1 << 22)), "4194304 bytes"),
    "less than nothing": (lie(actual=0xFFFFFFFF), "4294967295 bytes"),
    "more packets than there can be": (lambda _, answer: _counted(answer, 1 << 20), "1048576 packets"),
    "packets where there are none": (lie(packets=(Packet(0, 4, 4),)), "packets"),
    "no answer at all": (lambda asked, _: asked.emit(), "answer 0x1"),
    "another protocol": (lambda _asked, _answer: b"HTTP/1.0 400 Bad Request\r\n".ljust(100), "answer 0x48545450"),
}
PACKET_LIES: dict[str, tuple[Tamper, str]] = {
    "one that is longer than asked": (packets(lambda found: [replace(found[0], actual=9), *found[1:]]), "packets"),
    "more than were asked": (packets(lambda found: found * 2), "packets"),
    "fewer than were asked": (packets(lambda found: found[:1]), "packets"),
    "such as do not add up": (lie(actual=3, data=b"abc"), "packets"),
    "one of four gigabytes": (packets(lambda found: [replace(found[0], actual=0xFFFFFFFF), *found[1:]]), "packets"),
}


def _counted(answer: Submitted, packets: int) -> bytes:
    return struct.pack(">IIIIIiIIII8x", 3, answer.number, 0, 0, 0, 0, answer.actual, 0, packets, 0) + answer.data


def lies(tamper: Tamper, endpoint: int, *, inward: bool = True) -> Tamper:
    """Of the transfers of one endpoint."""
    return lambda asked, answer: (
        tamper(asked, answer) if (asked.endpoint, asked.inward) == (endpoint, inward) else answer.emit()
    )


def caught_lying(bay: Bay, domid: int, tamper: Tamper, words: str, ask: Callable[[Handle], object]) -> None:
    """The port becomes empty and says why; usbback lives."""
    back = bay.usb_back(domid)
    with served(bay, domid, tamper) as (_, handle):
        with suppress(OSError):
            ask(handle)  # of "the same twice" the first is fine
        until(lambda: status_of(bay, domid).startswith("error the usbip server: "), SECONDS)
        assert words in status_of(bay, domid)
        assert refused(lambda: handle.control(SETTING)) == errno.ENODEV
        bay.until_gone(domid, FAR)
    assert bay.usb_back(domid) == back
    assert works(bay, domid)


@pytest.mark.parametrize("name", BULK_LIES)
def test_a_lie_about_a_transfer(bay: Bay, domid: int, name: str) -> None:
    tamper, words = BULK_LIES[name]

    def ask(handle: Handle) -> None:
        handle.transfer(BULK, b"data")
        handle.transfer(IN | BULK, size=64)

    caught_lying(bay, domid, lies(tamper, BULK), words, ask)


@pytest.mark.parametrize("name", PACKET_LIES)
def test_a_lie_about_packets(bay: Bay, domid: int, name: str) -> None:
    tamper, words = PACKET_LIES[name]

    def ask(handle: Handle) -> None:
        handle.transfer(ISOC, b"datadata", packets=[Packet(0, 4), Packet(4, 4)])
        handle.transfer(IN | ISOC, size=16, packets=[Packet(0, 8), Packet(8, 8)])

    caught_lying(bay, domid, lies(tamper, ISOC), words, ask)


def test_a_lie_about_what_was_sent(bay: Bay, domid: int) -> None:
    tamper = lies(lie(actual=5), BULK, inward=False)
    caught_lying(bay, domid, tamper, "5 bytes", lambda handle: handle.transfer(BULK, b"four"))


@pytest.mark.parametrize("status", [-2, -121, -9999, 5, -(1 << 31)])
def test_a_status_that_nobody_knows_is_an_error(bay: Bay, domid: int, status: int) -> None:
    with served(bay, domid, lies(lie(status=status), INTERRUPT, inward=False)) as (_, handle):
        assert refused(lambda: handle.transfer(INTERRUPT, b"data")) == errno.EPROTO
        assert status_of(bay, domid) == "connected high"


def test_an_answer_without_packets_is_none_of_them(bay: Bay, domid: int) -> None:
    tamper = lies(lie(status=-71, actual=0, data=b"", packets=()), ISOC)
    with served(bay, domid, tamper) as (_, handle):
        failing = [Packet(0, 8), Packet(8, 8)]
        assert refused(lambda: handle.transfer(IN | ISOC, size=16, packets=failing)) == errno.EPROTO
        assert status_of(bay, domid) == "connected high"


def test_an_unlink_that_nobody_asked_for_is_passed_over(bay: Bay, domid: int) -> None:
    stray = b"".join(Short(Code.unlinked, number, ECONNRESET).emit() for number in (0, 1, 2, 0xFFFFFFFF))
    with served(bay, domid, lambda _, answer: stray + answer.emit()) as (_, handle):
        handle.transfer(BULK, b"data")
        assert handle.transfer(IN | BULK, size=64).data == b"data"


def test_a_server_that_never_answers_an_unlink_does_not_hold_the_guest(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):
        server.deaf = True
        for _ in range(20):
            assert refused(lambda: handle.transfer(IN | BULK, size=64, seconds=0.01)) == errno.ETIMEDOUT
        server.deaf = False
        handle.transfer(INTERRUPT, b"data")
        assert handle.transfer(IN | INTERRUPT, size=64).data == b"data"


def test_what_a_server_does_not_take_is_not_kept_for_ever(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):
        with server.stopped():
            while not status_of(bay, domid).startswith("error "):
                assert refused(lambda: handle.transfer(BULK, bytes(60000), seconds=0.01)) in (
                    errno.ETIMEDOUT,
                    errno.ENODEV,
                )
            assert "takes nothing" in status_of(bay, domid)
        memory = int(Path(f"/proc/{bay.usb_back(domid)}/statm").read_text().split()[1]) * 4096
        assert memory < 150 * MiB
    assert works(bay, domid)


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
