"""USB/IP of a guest's server: what a kernel's vhci_hcd asks of a device, and takes back."""

from __future__ import annotations

import errno

import pytest
from xenusb.loopback import BULK, FETCH, HALT, INTERRUPT, ISOC, STORE
from xenusb.usbip import ECONNRESET

from tests.usb.bay import Bay
from tests.usb.peers import (
    AS_ROOT,
    CLEAR_FEATURE,
    GET_CONFIGURATION,
    GET_DESCRIPTOR,
    GET_INTERFACE,
    GET_STATUS,
    IN,
    SET_ADDRESS,
    SET_CONFIGURATION,
    SET_INTERFACE,
    VENDOR_IN,
    VENDOR_OUT,
    MiB,
    pattern,
    plugged,
    taken,
)
from tests.usb.vhci import SUBMITTED, UNLINKED, Answer, Vhci
from xenfs.abi.usbif import Status

pytestmark = AS_ROOT


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


def test_what_waits_behind_a_large_transfer_is_unlinked_at_once(vhci: Vhci) -> None:
    first, second, third = (vhci.submit(BULK, size) for size in (MiB, MiB, 64))
    owns = [vhci.unlink(second), vhci.unlink(second), vhci.unlink(third)]
    assert [vhci.answer(own).status for own in owns] == [ECONNRESET, 0, ECONNRESET]
    vhci.transfer(BULK, b"short")
    assert vhci.answer(first).data == b"short"
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
