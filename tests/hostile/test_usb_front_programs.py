"""Groups U (U5, U6) and R against usbfront: programs of the guest's that do not keep to the protocol."""

from __future__ import annotations

import errno
import resource
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial

import pytest
from xenusb.client import devices
from xenusb.descriptors import Ask, Setup
from xenusb.device import Packet
from xenusb.importing import take
from xenusb.remote import RESET_PORT
from xenusb.urbs import MORE_IDS, MOST
from xenusb.usbip import BUS_ID, ECONNRESET, OP, VERSION, Code, Op, Short, Submit, Submitted

from tests.hostile.usb_back import UsbBack
from tests.hostile.usb_front import ADDRESS, CONFIGURE, DEVICE, IN, LISTING, back, early, machine, stopping
from tests.hostile.usb_liars import BULK, ISOC_END, QUIET, Gizmo
from tests.hostile.usb_program import IMPORT
from xenfs.abi.usbif import Status

__all__ = ["back", "early", "machine"]
pytestmark = pytest.mark.timeout(120)


def ended(back: UsbBack, connection: socket.socket) -> None:
    """Until usbfront has ended a connection, whatever it may have said before."""

    def drain() -> None:
        try:
            while connection.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass  # with something unread

    back.call(drain)


def test_garbage_ends_its_own_connection_and_no_other(back: UsbBack) -> None:
    other = back.open()
    for said in (
        b"\xff" * 64, bytes(8), OP.pack(0x0106, Op.list_request, 0), OP.pack(VERSION, 0x8004, 0),
        LISTING * 1000 + bytes(8), OP.pack(VERSION, Op.import_reply, 0), bytes(range(256)) * 200,
    ):  # fmt: skip
        connection = back.socket()
        connection.sendall(said)
        ended(back, connection)
        assert back.says(other) == 1


def test_half_a_message_and_then_none(back: UsbBack) -> None:
    other = back.open()
    for said in (b"", LISTING[:7], IMPORT, IMPORT + BUS_ID.pack(b"1-1")[:31]):
        with back.socket() as connection:
            connection.sendall(said)
        assert back.says(other) == 1
    whole = back.raw().control(DEVICE).emit()
    for size in (1, 20, 47):
        raw = back.raw()
        raw.socket.sendall(whole[:size])
        raw.close()
    raw = back.raw()
    raw.socket.sendall(raw.submit(BULK, 1000, inward=False, data=bytes(1000)).emit()[:-1])
    raw.close()
    asked = len(back.asked)
    assert back.says(other) == 1
    assert len(back.asked) == asked + 1


def test_a_message_byte_by_byte(back: UsbBack) -> None:
    connection = back.socket()
    for byte in IMPORT + BUS_ID.pack(b"1-1"):
        connection.sendall(bytes((byte,)))
    assert len(back.call(lambda: connection.recv(OP.size + 312, 0x100))) == OP.size + 312  # MSG_WAITALL


def test_a_device_that_there_is_not_is_not_imported(back: UsbBack) -> None:
    connection = back.socket()
    for name in (b"", b"1-2", b"2-1", b"1-1 ", b"1-01", b"\xff" * 32, b"../../etc/passwd", b"1-" + b"1" * 30):
        connection.sendall(IMPORT + BUS_ID.pack(name))
        assert connection.recv(64) == OP.pack(VERSION, Op.import_reply, 1)
    assert take(connection, "1-1").product == 1, "and may ask for another"


def head(code: int = 1, *, inward: int = 1, end: int = 0, size: int = 0, packets: int = 0) -> bytes:
    return struct.pack(">IIIIIIIIiI8s", code, 1, 0, inward, end, 0, size, 0, packets, 0, bytes(8))


def test_a_transfer_that_cannot_be_ends_its_own_connection(back: UsbBack) -> None:
    other = back.open()
    for said in (
        head(0), head(3), head(4), head(0x100), head(0x106), head(1 << 31), head(inward=2), head(inward=1 << 31),
        head(end=16), head(end=(1 << 32) - 1), head(size=(1 << 22) + 1), head(size=(1 << 32) - 1),
        head(inward=0, size=(1 << 32) - 1), head(packets=1025), head(packets=-2), head(packets=(1 << 31) - 1),
    ):  # fmt: skip
        raw = back.raw()
        raw.socket.sendall(said)
        ended(back, raw.socket)
        assert back.says(other) == 1
    assert back.log().count("a usbip client: ") == 16


def test_a_number_twice_at_once_ends_the_connection_and_what_it_had_asked_for(back: UsbBack) -> None:
    other, raw = back.open(), back.raw()
    raw.send(raw.submit(QUIET), raw.submit(QUIET, number=2))
    back.serve_until(lambda: len(back.left) == 2)
    raw.send(raw.submit(QUIET))
    ended(back, raw.socket)
    back.serve_until(lambda: not back.left)
    assert back.says(other) == 1
    for change in (Setup(1, Ask.set_interface, 0, 0), CONFIGURE, Setup(*RESET_PORT)):
        raw = back.raw()
        raw.send(raw.control(change), raw.control(change))
        ended(back, raw.socket)
    back.alive()


def test_u6_unlinks_of_nothing_and_of_the_same(back: UsbBack) -> None:
    other, raw = back.open(), back.raw()
    storm = [Short(Code.unlink, 1000 + number, number) for number in range(1000)]
    assert set(raw.statuses(*storm)) == {0}
    raw.send(raw.submit(QUIET))
    back.serve_until(lambda: len(back.left) == 1)
    answers = raw.statuses(*[Short(Code.unlink, 1000 + number, 1) for number in range(1000)])
    assert sorted(answers) == [ECONNRESET] + [0] * 999
    assert sum(urb.pipe.unlink for urb in back.asked) == 1
    assert raw.statuses(raw.submit(BULK)) == [0]
    assert back.says(other) == 1


def test_u5_endpoints_and_packets_that_there_are_not(back: UsbBack) -> None:
    raw = back.raw()
    packets = partial(raw.submit, ISOC_END, 100)
    asked: Sequence[tuple[Submit, int]] = (
        (raw.submit(15, number=1), -errno.ENOENT),
        (raw.submit(15, number=2, inward=False, data=bytes(8)), -errno.ENOENT),
        (packets(number=3), Status.inval),
        (packets(number=4, packets=(Packet(0, 101),)), Status.inval),
        (packets(number=5, packets=(Packet(100, 1),)), Status.inval),
        (packets(number=6, packets=(Packet((1 << 32) - 1, (1 << 32) - 1),)), Status.inval),
        (raw.submit(BULK, number=7, packets=(Packet(0, 8),)), Status.inval),
        (raw.submit(ISOC_END, 1 << 20, number=8, packets=(Packet(0, 8),)), Status.inval),
        (packets(number=9, packets=(Packet(0, 0),) * 257), Status.inval),
        (raw.control(Setup(0, Ask.set_address, 5), number=10), Status.stall),
        (packets(number=11, packets=(Packet(0, 100),) * 256), 0),
    )
    for one, status in asked:
        assert raw.statuses(one) == [status]
    own = [Short(code, 1, 0xFFFFFFFF) for code in (Code.claim, Code.release, Code.detach_driver, Code.driver_active)]
    assert raw.statuses(*own) == [-errno.ENOENT] * 4
    back.alive()


def test_thousands_of_transfers_whose_answers_nobody_takes(back: UsbBack) -> None:
    other, raw = back.open(), back.raw()
    before = back.memory()
    asked = b"".join(raw.submit(BULK, MOST, number=number).emit() for number in range(3000))
    raw.socket.setblocking(False)
    sent = 0
    while sent < len(asked):
        try:
            sent += raw.socket.send(asked[sent:])
        except BlockingIOError:
            break
        assert back.says(other) == 1
    for _ in range(20):
        assert back.says(other) == 1
    assert back.memory() - before < 60 << 20
    raw.close()
    assert back.says(other) == 1


def test_more_transfers_than_anybody_needs_are_refused(back: UsbBack) -> None:
    other, raw = back.open(), back.raw()
    number = 0
    refused: list[int] = []
    while not refused:
        some = [raw.submit(QUIET, number=number + more) for more in range(100)]
        number += 100
        probe = Short(Code.unlink, 1 << 20, 1 << 20)
        raw.send(*some, probe)
        found: list[object] = []
        while not any(isinstance(one, Short) for one in found):
            found += raw.answers(1)
        refused = [one.status for one in found if isinstance(one, Submitted)]
        assert number < 5000
    assert set(refused) == {-errno.ENOMEM}
    assert back.says(other) == 1
    assert raw.statuses(Short(Code.unlink, 1 << 20, 0)) == [ECONNRESET], "and may be taken back"
    raw.close()
    back.serve_until(lambda: not back.left)


def test_whoever_goes_with_his_answers_unread_leaves_nothing(back: UsbBack) -> None:
    other = back.open()
    back.stop()
    for _ in range(8):
        raw = back.raw(answers=False)
        raw.socket.sendall(b"".join(raw.submit(end, number=end).emit() for end in (15, QUIET)))
        raw.close()
    back.go_on()
    assert back.says(other) == 1
    assert back.left == {}
    assert back.call(lambda: other.transfer(IN | BULK, size=8)).data == b"g" * 8


def test_whoever_goes_with_much_under_way_leaves_nothing(back: UsbBack) -> None:
    other = back.open()
    for _ in range(3):
        raw = back.raw()
        raw.send(*[raw.submit(QUIET, number=number) for number in range(300)])
        raw.send(*[raw.submit(BULK, 1 << 22, number=1000 + number) for number in range(3)])
        back.serve_until(lambda: len(back.left) == MORE_IDS)
        raw.close()
        back.serve_until(lambda: not back.left)
        assert back.says(other) == 1


@pytest.mark.parametrize("descriptors", [0, 60, 61])
def test_more_connections_than_there_is_room_for(back: UsbBack, descriptors: int) -> None:
    other = back.open()
    if descriptors:
        resource.prlimit(back.front.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
    with ExitStack() as held:
        for _ in range(700):
            connection = held.enter_context(socket.socket(socket.AF_UNIX))
            connection.setblocking(False)
            with suppress(BlockingIOError, BrokenPipeError):  # nobody takes it, or nobody keeps it
                connection.connect(back.key("xenfs-usb"))
                connection.sendall(LISTING)
        assert back.says(other) == 1
    back.alive()


def test_resets_over_and_over(back: UsbBack) -> None:
    other, raw = back.open(), back.raw()
    statuses = raw.statuses(*[raw.control(Setup(*RESET_PORT), number=number) for number in range(200)])
    assert statuses == [0] * 200
    assert back.says(other) == 1
    assert raw.statuses(raw.control(DEVICE)) == [0]


def test_nobody_speaks_to_a_device_that_has_no_address(back: UsbBack) -> None:
    raw = back.raw()
    there = stopping(back, ADDRESS)
    raw.send(raw.control(Setup(*RESET_PORT)))
    back.serve_until(there)
    assert raw.statuses(raw.control(DEVICE, number=2), raw.submit(BULK, number=3)) == [Status.shutdown] * 2
    back.lie = lambda _urb, answer: [answer]
    back.answer((back.asked[-1].id, 0, int(Status.stall), 0, 0))
    assert [one.number for one in raw.answers(1)] == [1]
    assert raw.statuses(raw.control(Setup(*RESET_PORT)), raw.control(DEVICE, number=2)) == [Status.shutdown, 0]
    assert raw.statuses(raw.control(DEVICE)) == [0]


def test_a_device_that_is_gone_is_so_for_whoever_has_it(back: UsbBack) -> None:
    raw = back.raw()
    raw.send(raw.submit(QUIET))
    back.serve_until(lambda: len(back.left) == 1)
    back.unplug(1)
    back.until_gone(1)
    for asked in (raw.control(DEVICE, number=2), raw.submit(BULK, number=3), raw.control(Setup(*RESET_PORT), number=4)):
        assert raw.statuses(asked) == [-errno.ENODEV]
    assert raw.statuses(Short(Code.claim, 5, 0)) == [-errno.ENODEV]
    assert list(devices(back.domid)) == []
    back.plug(1, Gizmo())
    back.until_there(1)
    back.alive()
