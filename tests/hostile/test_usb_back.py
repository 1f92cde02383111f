"""Group U against usbback: a guest that asks nonsense, and what becomes of its devices and of others'."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from xenusb.bulk_only import Command
from xenusb.descriptors import Ask, Setup

from tests.hostile.usb_guest import (
    BULK,
    EMPTY,
    INTERRUPT,
    LOOPBACK,
    PORTS,
    STICK,
    UsbGuest,
    UsbHost,
    guest,
    host,
    patient,
)
from xenfs.abi.usbif import FRAME, Pipe, PipeType, Status
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry
from xenfs.testing.peers import Flipper

__all__ = ["guest", "host", "patient"]
pytestmark = pytest.mark.timeout(120)
DESCRIPTOR = Setup(0x80, 6, 0x100, 0, 18)


def refused(guest: UsbGuest, request: Entry, status: Status) -> None:
    """It is answered with its id and an error, and the ring lives."""
    assert guest.ask(request) == [(request[0], 0, int(status), 0, 0)]
    guest.alive()


def test_what_is_in_the_ports_is_told_at_the_connection(patient: UsbGuest) -> None:
    assert sorted(patient.connect().news(2)) == [(LOOPBACK, 3), (STICK, 3)]


@pytest.mark.parametrize("port", [0, PORTS + 1, 31, EMPTY])
@pytest.mark.parametrize("kind", list(PipeType))
def test_u1_a_port_that_is_none_or_empty(guest: UsbGuest, port: int, kind: PipeType) -> None:
    refused(guest, guest.urb(port, kind, endpoint=int(kind is not PipeType.control), number=77), Status.nodev)
    refused(guest, guest.unlink(port, 5), Status.nodev if port != EMPTY else Status.inval)


@pytest.mark.parametrize(
    ("size", "offset", "length"),
    [
        (100, 0, 99), (4096, 1, 4096), (4096, 0, 4097), (100, 65535, 100), (100, 0, 65535), (4096, 65535, 65535),
        (1, 0, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inward", [True, False])
def test_u2_segments_that_are_too_little_or_beyond_their_page(
    guest: UsbGuest, size: int, offset: int, length: int, *, inward: bool
) -> None:
    parts = [(guest.refs[0], offset, length)]
    refused(
        guest, guest.urb(LOOPBACK, PipeType.bulk, inward=inward, endpoint=BULK, size=size, data=parts), Status.inval
    )


def test_u2_lengths_at_both_ends(guest: UsbGuest) -> None:
    assert guest.ask(guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=0)) == [(1, 0, 0, 0, 0)]
    assert guest.ask(guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, inward=True, size=64)) == [(1, 0, 0, 0, 0)]
    guest.put(bytes(range(256)) * 256)
    most = 16 * PAGE_SIZE - 1
    assert guest.ask(guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=most)) == [(1, 0, 0, most, 0)]
    guest.put(bytes(16 * PAGE_SIZE))
    assert guest.ask(guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, inward=True, size=most)) == [(1, 0, 0, most, 0)]
    assert guest.page(16 * PAGE_SIZE) == (bytes(range(256)) * 256)[:most] + b"\0"


def test_u2_more_segments_than_there_is_room_for(guest: UsbGuest) -> None:
    entry = guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=8)
    for count in (17, 255, 65535):
        refused(guest, (entry[0], count, *entry[2:]), Status.inval)
    isoc = guest.isoc([(0, 8)], inward=False, size=8)
    refused(guest, (isoc[0], 16, *isoc[2:]), Status.inval)


def test_u2_pages_that_are_not_granted_or_not_to_be_written(guest: UsbGuest) -> None:
    _, _, (readonly,) = guest.share(1, readonly=True)
    refused(guest, guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, inward=True, size=8, data=[(readonly, 0, 8)]),
            Status.inval)  # fmt: skip
    sent = guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=8, data=[(readonly, 0, 8)])
    assert guest.ask(sent) == [(1, 0, 0, 8, 0)]
    for ref in (0, 7, 0xFFFF_FFFF):
        refused(guest, guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=8, data=[(ref, 0, 8)]), Status.inval)


@pytest.mark.parametrize(
    ("frames", "count", "size"),
    [
        ([], 0, 64), ([(0, 64)], 65535, 64), ([(1, 64)], 1, 64), ([(0, 0xFFFF_FFFF)], 1, 64),
        ([(0xFFFF_FFF0, 32)], 1, 64), ([(0, 65)], 1, 64), ([(0, 64)] * 257, 257, 64),
    ],
)  # fmt: skip
def test_u3_packets_that_cannot_be(guest: UsbGuest, frames: list[tuple[int, int]], count: int, size: int) -> None:
    for inward in (True, False):
        refused(guest, guest.isoc(frames[:256], inward=inward, size=size, count=count), Status.inval)


def test_u3_packets_that_overlap_are_the_guests_affair(guest: UsbGuest) -> None:
    guest.put(b"abcdefgh")
    assert guest.ask(guest.isoc([(0, 4), (2, 4), (2, 4)], inward=False, size=8)) == [(1, 0, 0, 8, 0)]
    guest.put(bytes(8))
    assert guest.ask(guest.isoc([(0, 4), (4, 4), (0, 4)], inward=True, size=8)) == [(1, 0, 0, 8, 0)]
    assert guest.page(8) == b"cdefcdef"


def test_u3_each_packet_has_its_own_status(guest: UsbGuest) -> None:
    guest.put(b"goodlostlongmore")
    assert guest.ask(guest.isoc([(at, 4) for at in range(0, 16, 4)], inward=False, size=16)) == [(1, 0, 0, 16, 0)]
    assert guest.described(4) == [(4, 0)] * 4
    assert guest.ask(guest.isoc([(at, 4) for at in range(0, 20, 4)], inward=True, size=20)) == [(1, 0, 0, 8, 2)]
    assert guest.described(5) == [(4, 0), (0, int(Status.ioerror)), (0, int(Status.babble)), (4, 0), (0, 0)]


def test_u3_packets_that_change_while_they_are_looked_at_stay_within_the_buffer(guest: UsbGuest) -> None:
    guest.put(b"z" * PAGE_SIZE, 1)
    entry = guest.isoc([(0, 8)], inward=True, size=64)
    at = 19 * PAGE_SIZE
    values = [FRAME.pack(0, 8, 0, 0), FRAME.pack(60, 0xFFFF_0000, 0, 0)]
    statuses = set()
    with Flipper(guest.view[at : at + FRAME.size], values):
        for _ in range(200):
            ((_, _, status, _, _),) = guest.ask(entry)
            statuses.add(status)
    assert statuses <= {int(Status.ok), int(Status.inval)}
    assert guest.page(PAGE_SIZE, 1) == b"z" * PAGE_SIZE


@pytest.mark.parametrize("address", [128, 255, 65535, STICK])
def test_u4_an_address_that_cannot_be_had(guest: UsbGuest, address: int) -> None:
    refused(guest, guest.setup(LOOPBACK, Setup(0, Ask.set_address, address), number=5), Status.inval)


def test_u4_address_0_is_that_of_a_device_without_one(guest: UsbGuest) -> None:
    assert guest.control(LOOPBACK, Setup(0, Ask.set_address, 0)) == Status.ok
    assert guest.control(LOOPBACK, DESCRIPTOR) == Status.nodev, "it does not hear to its old address"
    assert guest.control(LOOPBACK, DESCRIPTOR, address=0) == Status.ok
    assert guest.control(LOOPBACK, Setup(0, Ask.set_address, 100), address=0) == Status.ok
    assert guest.control(LOOPBACK, DESCRIPTOR, address=100) == Status.ok


def test_u4_whoever_speaks_to_address_0_has_reset_the_port(guest: UsbGuest) -> None:
    waiting = guest.urb(LOOPBACK, PipeType.interrupt, endpoint=INTERRUPT, inward=True, size=8, number=6)
    answers = guest.ask(waiting, guest.setup(LOOPBACK, DESCRIPTOR, number=7, address=0))
    assert [answer[:3] for answer in answers] == [(6, 0, int(Status.shutdown)), (7, 0, 0)]
    assert guest.control(LOOPBACK, DESCRIPTOR) == Status.nodev


@pytest.mark.parametrize(
    ("setup", "inward", "size", "status"),
    [
        (Setup(0x80, 6, 0x100, 0, 64), True, 18, Status.inval),
        (Setup(0x80, 6, 0x100, 0, 65535), True, 18, Status.inval),
        (Setup(0x80, 6, 0x100, 0, 18), False, 18, Status.inval),
        (Setup(0x40, 1, 0, 0, 8), True, 8, Status.inval),
        (Setup(0x80, 200, 0, 0, 8), True, 8, Status.stall),
        (Setup(0x83, 6, 0x100, 0, 8), True, 8, Status.stall),
        (Setup(0, Ask.set_configuration, 9), False, 0, Status.stall),
        (Setup(1, Ask.set_interface, 7, 0), False, 0, Status.stall),
    ],
)  # fmt: skip
def test_u5_setup_packets_that_do_not_agree_with_their_pipe(
    guest: UsbGuest, setup: Setup, size: int, status: Status, *, inward: bool
) -> None:
    request = guest.urb(LOOPBACK, PipeType.control, inward=inward, size=size, special=setup.emit(), number=8)
    refused(guest, request, status)


def test_u5_less_than_the_buffer_holds_is_what_is_moved(guest: UsbGuest) -> None:
    guest.put(b"z" * 64)
    request = guest.urb(LOOPBACK, PipeType.control, inward=True, size=64, special=Setup(0x80, 6, 0x100, 0, 8).emit())
    assert guest.ask(request) == [(1, 0, 0, 8, 0)]
    assert guest.page(64)[8:] == b"z" * 56


def test_u5_endpoints_that_the_device_has_not(guest: UsbGuest) -> None:
    for kind, endpoint, inward in product(
        (PipeType.bulk, PipeType.interrupt, PipeType.isoc), range(1, 16), (True, False)
    ):
        if (kind, endpoint) in ((PipeType.bulk, 1), (PipeType.interrupt, 2), (PipeType.isoc, 3)):
            continue
        request = (
            guest.urb(LOOPBACK, kind, endpoint=endpoint, inward=inward, size=8)
            if kind is not PipeType.isoc
            else guest.isoc([(0, 8)], inward=inward, size=8)
        )
        if kind is PipeType.isoc:
            word = Pipe(LOOPBACK, kind, inward, LOOPBACK, endpoint).emit()
            request = (*request[:2], word, *request[3:])
        assert guest.ask(request)[0][2] == Status.inval, (kind, endpoint, inward)
    refused(guest, guest.urb(LOOPBACK, PipeType.bulk, endpoint=0, size=8), Status.inval)
    refused(guest, guest.urb(LOOPBACK, PipeType.control, endpoint=1, size=0), Status.inval)


def test_u6_unlinking_what_is_unknown_over_or_oneself(guest: UsbGuest) -> None:
    refused(guest, guest.unlink(LOOPBACK, 12345), Status.inval)
    guest.alive()
    refused(guest, guest.unlink(LOOPBACK, 3), Status.inval)
    refused(guest, guest.unlink(LOOPBACK, 9, number=9), Status.inval)


def test_u6_both_are_answered_and_a_storm_is_only_that(guest: UsbGuest) -> None:
    waiting = guest.urb(LOOPBACK, PipeType.interrupt, endpoint=INTERRUPT, inward=True, size=8, number=5)
    assert guest.ask(waiting, guest.unlink(LOOPBACK, 5)) == [(5, 0, int(Status.shutdown), 0, 0), (9, 0, 0, 0, 0)]
    for _ in range(40):
        storm = [guest.unlink(LOOPBACK, 5, number=20 + at) for at in range(14)]
        answers = guest.ask(waiting, *storm)
        assert [answer[2] for answer in answers[:2]] == [int(Status.shutdown), 0]
        assert {answer[2] for answer in answers[2:]} == {int(Status.inval)}
    refused(guest, guest.unlink(STICK, 5), Status.inval)


def test_u6_unlinking_by_another_ports_pipe_reaches_nothing(guest: UsbGuest) -> None:
    waiting = guest.urb(LOOPBACK, PipeType.interrupt, endpoint=INTERRUPT, inward=True, size=8, number=5)
    guest.ring.ring.push(*waiting)
    assert guest.ask(guest.unlink(STICK, 5)) == [(9, 0, int(Status.inval), 0, 0)]
    guest.ring.ring.push(*guest.unlink(LOOPBACK, 5, number=8))
    guest.ring.publish()
    guest.channel.notify()
    assert guest.answers(2) == [(5, 0, int(Status.shutdown), 0, 0), (8, 0, 0, 0, 0)]


def test_u7_unplugged_in_the_middle(guest: UsbGuest) -> None:
    guest.news(2)
    waiting = [
        guest.urb(LOOPBACK, PipeType.interrupt, endpoint=INTERRUPT, inward=True, size=8, number=number)
        for number in range(4)
    ]
    for request in waiting:
        guest.ring.ring.push(*request)
    guest.ring.publish()
    guest.channel.notify()
    guest.plug(LOOPBACK, "")
    assert sorted(guest.answers(4)) == [(number, 0, int(Status.nodev), 0, 0) for number in range(4)]
    assert guest.news(1) == [(LOOPBACK, 0)]
    assert guest.control(LOOPBACK, DESCRIPTOR) == Status.nodev
    guest.plug(LOOPBACK, "loopback:")
    assert guest.news(1) == [(LOOPBACK, 3)]
    assert guest.control(LOOPBACK, DESCRIPTOR, address=0) == Status.ok


def test_u7_a_device_of_two_ports_is_refused_to_the_second_also_of_another_guest(host: UsbHost) -> None:
    with host.guest("one") as first, host.guest("two") as second:
        image = host.image("one")
        first.plug(EMPTY, f"stick:{image}")
        first.until_port(EMPTY, f"error stick:{image}: it is in another port already")
        second.plug(EMPTY, f"stick:{image},ro")
        second.until_port(EMPTY, "error")
        first.plug(EMPTY, "")
        first.plug(STICK, "")
        first.until_port(STICK, "empty")
        second.plug(EMPTY, "")
        second.until_port(EMPTY, "empty")
        second.plug(EMPTY, f"stick:{image},ro")
        second.until_port(EMPTY, "connected high")


@pytest.mark.parametrize(
    "what",
    [
        "x" * 17, "1-", "0-0", "../../etc/passwd", "stick:", "stick:/", "stick:/etc/shadow,x", "stick:/dev/null",
        "keyboard:/etc/passwd", "serial:", "serial:/etc/passwd", "usbip:", "usbip:127.0.0.1:1/1-1", "python:os:nix:",
        "python:no_such_module:X:", "python:json:loads:{", ":", "stick:/\x7f",
    ],
)  # fmt: skip
def test_u7_what_is_no_device_is_named_and_nothing_else_is_touched(guest: UsbGuest, what: str) -> None:
    guest.plug(EMPTY, what)
    guest.until_port(EMPTY, "error")
    guest.alive()


def test_u8_intervals_at_both_ends(guest: UsbGuest) -> None:
    for interval in (0, 1, 65535):
        guest.put(b"tick")
        special = interval.to_bytes(2, "little") + bytes(6)
        request = guest.urb(LOOPBACK, PipeType.interrupt, endpoint=INTERRUPT, size=4, special=special)
        assert guest.ask(request) == [(1, 0, 0, 4, 0)]
        request = guest.urb(LOOPBACK, PipeType.interrupt, endpoint=INTERRUPT, inward=True, size=4, special=special)
        assert guest.ask(request) == [(1, 0, 0, 4, 0)]


def test_u11_one_guest_never_reaches_the_others_devices(host: UsbHost) -> None:
    Path(host.image("mine")).write_bytes(b"M" * (1 << 20))
    Path(host.image("yours")).write_bytes(b"Y" * (1 << 20))
    with host.guest("mine") as mine, host.guest("yours") as yours:
        mine.connect().settle()
        yours.connect().settle()
        read = Command(1, 512, True, 0, b"\x28".ljust(8, b"\0") + b"\x01\0")
        for guest, letter in ((mine, b"M"), (yours, b"Y")):
            guest.put(read.emit())
            sent = guest.urb(STICK, PipeType.bulk, endpoint=2, size=31, number=1)
            got = guest.urb(STICK, PipeType.bulk, endpoint=1, inward=True, size=512, number=2)
            assert guest.ask(sent, got) == [(1, 0, 0, 31, 0), (2, 0, 0, 512, 0)]
            assert guest.page(512) == letter * 512
        assert mine.control(STICK, Setup(0, Ask.set_configuration, 0)) == Status.ok
        assert yours.ask(yours.setup(STICK, Setup(0x80, Ask.get_configuration, length=1)))[0][3] == 1
        assert yours.page(1) == b"\x01", "a configuration is each device's own"


def test_u12_a_backend_that_is_killed_leaves_nothing_and_the_next_probes_again(host: UsbHost) -> None:
    with host.guest() as guest:
        guest.connect().settle()
        guest.news(2)
        guest.close()
        guest.set_state(S.Initialising)
        guest.until_state(S.InitWait)
        guest.connect()
        assert sorted(guest.news(2)) == [(LOOPBACK, 3), (STICK, 3)]
        assert guest.control(LOOPBACK, DESCRIPTOR) == Status.nodev, "addresses are those of the connection before"
        guest.settle().alive()


def test_a_stick_that_is_spoken_to_out_of_turn_halts_until_it_is_reset(guest: UsbGuest) -> None:
    guest.put(b"not a command".ljust(31))
    sent = guest.urb(STICK, PipeType.bulk, endpoint=2, size=31, number=1)
    status = guest.urb(STICK, PipeType.bulk, endpoint=1, inward=True, size=13, number=2)
    assert [answer[2] for answer in guest.ask(sent, status)] == [int(Status.stall)] * 2
    clear = [Setup(2, Ask.clear_feature, 0, address) for address in (0x81, 0x02)]
    for setup in clear:
        assert guest.control(STICK, setup) == Status.ok
    assert guest.ask(sent)[0][2] == int(Status.stall), "only a reset mends it"
    for setup in (Setup(0x21, 0xFF), *clear):
        assert guest.control(STICK, setup) == Status.ok
    guest.put(Command(7, 0, False, 0, bytes(6)).emit())
    assert guest.ask(sent, status) == [(1, 0, 0, 31, 0), (2, 0, 0, 13, 0)]
    assert guest.page(13)[:8] == b"USBS\x07\0\0\0"


def test_short_is_an_error_where_the_guest_says_so(guest: UsbGuest) -> None:
    for flags, status in ((0, Status.ok), (1, Status.ioerror)):
        guest.put(b"short")
        guest.ask(guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=5))
        request = guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, inward=True, size=64, flags=flags)
        assert guest.ask(request) == [(1, 0, int(status), 5, 0)]
