"""Groups U (U9, U10, U12) and R against usbfront: a backend that answers nonsense, devices that lie, and programs of
the guest's that do; and a guest that survives all of it."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from xenusb.client import devices
from xenusb.descriptors import Ask, Kind, Setup
from xenusb.device import Packet
from xenusb.importing import take
from xenusb.remote import RESET_PORT
from xenusb.urbs import IDS, MOST
from xenusb.usbip import BUS_ID, ECONNRESET, OP, VERSION, Code, Op, Short, Submit, Submitted

from tests.hostile.peer import SECONDS
from tests.hostile.usb_back import PORTS, UsbBack, UsbMachine
from tests.hostile.usb_liars import (
    BULK,
    CAPACITIES,
    ENDLESS,
    ISOC_END,
    LIES,
    NEVER,
    QUIET,
    Answer,
    Dead,
    Gizmo,
    Lied,
    MockStick,
    honest,
    liars,
    when,
)
from tests.hostile.usb_program import IMPORT
from tests.mounted.mount import until
from xenfs.abi.usbif import Status, Urb
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry

pytestmark = pytest.mark.timeout(120)
IN = 0x80
LISTING = OP.pack(VERSION, Op.list_request, 0)
DEVICE = Setup(0x80, Ask.get_descriptor, Kind.device << 8, 0, 18)
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
OVER_AND_OVER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
room = mmap.mmap(-1, 1 << 16)
print(sum(os.preadv(fd, [room], at % 8 << 16) for at in range(1000)))
"""
FAILED = ("Input/output error\n", "")
GONE = ("Input/output error", "Transport endpoint is not connected", "Software caused connection abort")


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


# A backend that is honest, and one that comes and goes.


def test_an_honest_backend_is_seen_and_spoken_to(back: UsbBack) -> None:
    assert back.key("port/1") == "1209:0001 Maker Gizmo"
    (place,) = back.places()
    assert (place.exported.bus_id, place.exported.speed, place.exported.configuration) == ("1-1", 3, 1)
    handle = back.open()
    assert back.says(handle) == 1
    assert back.call(lambda: handle.string(2)) == "Gizmo"
    assert back.call(lambda: handle.transfer(IN | BULK, size=1 << 20)).data == b"g" * (1 << 20)
    assert back.call(lambda: handle.transfer(BULK, b"x" * 100_000)).actual == 100_000
    back.unplug(1)
    back.until_gone(1)
    assert back.places() == []


def test_an_honest_stick_is_a_disk(back: UsbBack) -> None:
    back.plug(2, MockStick())
    file = back.until_disk(2)
    assert reads(back, file, 1 << 19) == good()
    assert reads(back, file, 5 << 17, 1 << 17) == good(1 << 17)
    assert back.finish(back.start(WRITE, file, "4096", "512")) == ("512\n", "")
    back.unplug(2)
    back.until_gone(2)
    assert not Path(file).exists()


@pytest.mark.parametrize("states", [(), (S.Closing,), (S.Closing, S.Unknown, S.InitWait, S.Closing)])
def test_u12_a_backend_that_goes_ends_transfers_and_readers_go_on(back: UsbBack, states: Sequence[S]) -> None:
    stick = MockStick()
    back.plug(2, stick)
    file = back.until_disk(2)
    handle, raw = back.open(), back.raw()
    raw.send(raw.submit(QUIET))
    stick.lie = lambda _words, _data, _status: (None, None)
    reader = back.start(READ, file, str(1 << 19), "512")
    back.serve_until(lambda: len(back.left) == 3)
    stick.lie = honest
    back.let_go(*states)
    (answer,) = raw.answers(1, serve=False)
    assert isinstance(answer, Submitted)
    assert answer.status == Status.shutdown
    with pytest.raises(OSError, match="shutdown"):
        handle.device()
    back.again()
    assert back.finish(reader) == good()
    assert back.says(handle) == 1, "the device is the same"
    assert back.until_disk(2) == file, "and so is the disk"


def stopping(back: UsbBack, setup: Setup, port: int = 1) -> Callable[[], bool]:
    """Answer all but one control transfer to a port; whether it has come."""

    def is_it(urb: Urb) -> bool:
        return (urb.pipe.port, urb.special) == (port, setup.emit())

    back.asked.clear()
    back.lie = lambda urb, answer: [] if is_it(urb) else [answer]
    return lambda: any(is_it(urb) for urb in back.asked)


FIRST = Setup(0x80, Ask.get_descriptor, Kind.device << 8, 0, 64)
ADDRESS, CONFIGURE = Setup(0, Ask.set_address, 1), Setup(0, Ask.set_configuration, 1)


@pytest.mark.parametrize("setup", [FIRST, ADDRESS, DEVICE, CONFIGURE])
def test_u12_a_backend_that_goes_while_a_device_says_what_it_is(early: UsbBack, setup: Setup) -> None:
    there = stopping(early, setup, 2)
    early.connect({2: MockStick()})
    early.serve_until(there)
    early.lie = lambda _urb, answer: [answer]
    early.let_go().come_back()
    assert early.until_disk(2)


def test_u12_a_backend_that_goes_while_a_device_comes_back(back: UsbBack) -> None:
    stick = MockStick()
    back.plug(2, stick)
    file = back.until_disk(2)
    for setup in (CONFIGURE, DEVICE, CONFIGURE):
        there = stopping(back, setup, 2)
        back.let_go().come_back()
        reader = back.start(READ, file, str(1 << 19), "512")
        back.serve_until(there)
    back.again()
    assert back.finish(reader) == good()
    assert back.until_disk(2) == file


def test_u12_a_device_that_comes_back_twice_is_there_once(back: UsbBack) -> None:
    back.plug(2, MockStick())
    file = back.until_disk(2)
    there = stopping(back, CONFIGURE, 2)
    back.let_go().come_back()
    back.serve_until(there)
    back.lie = lambda _urb, answer: [answer]
    back.plug(2, MockStick())
    back.serve_until(lambda: back.key("disk/2/xenfs-file") not in ("", file))
    assert reads(back, back.until_disk(2), 1 << 19) == good()


def test_u12_what_does_not_come_back_is_gone_and_what_is_another_is_another(back: UsbBack) -> None:
    stick = MockStick()
    for port in (2, 3):
        back.plug(port, stick)
    files = [back.until_disk(port) for port in (2, 3)]
    handle = back.open()
    back.let_go()
    back.devices = {1: Gizmo(7), 2: stick}
    back.come_back().until_there(1, "1209:0007")
    back.until_gone(3)
    with pytest.raises(OSError, match="No such device"):
        back.says(handle)
    assert back.until_disk(2) == files[0]
    assert not Path(files[1]).exists()


# Answers to transfers.


def test_u9_bytes_that_cannot_have_been_moved(back: UsbBack) -> None:
    handle = back.open()
    for actual, size in ((-1, 0), (-(1 << 31), 0), (0, 0), (101, 100), ((1 << 31) - 1, 100)):
        back.lie = lambda _urb, answer, actual=actual: [(answer[0], 0xFFFF, 0, actual, -1)]  # type: ignore[misc]
        assert back.call(lambda: handle.transfer(IN | BULK, size=100)).data == b"g" * size
        assert back.call(lambda: handle.transfer(BULK, b"x" * 100)).actual == size
        whole = back.call(lambda: handle.transfer(IN | BULK, size=3 * MOST))
        assert whole.data == b"g" * (3 * MOST if actual > MOST else max(0, actual))


@pytest.mark.parametrize("address", [IN | BULK, BULK])
def test_u9_a_status_that_is_none_is_a_shutdown(back: UsbBack, address: int) -> None:
    handle = back.open()
    for status in (1, 108, (1 << 31) - 1, -1, -5, -109, -(1 << 31)):
        back.lie = lambda urb, answer, status=status: [(answer[0], 0, status, urb.length, 1 << 30)]  # type: ignore[misc]
        with pytest.raises(OSError, match="shutdown") as caught:
            back.call(lambda: handle.transfer(address, b"x" * 8, 8))
        assert caught.value.errno == errno.ESHUTDOWN


def test_u9_isochronous_packets_of_more_than_there_was_room_for(back: UsbBack) -> None:
    handle = back.open()

    def lie(urb: Urb, answer: Entry) -> list[Entry]:
        back.describe(urb, [(0xFFFF_FFFF, -(1 << 31)), (0, 1 << 30)])
        return [(answer[0], 7, 0, 0, -5)]

    back.lie = lie
    packets = [Packet(0, 10), Packet(40, 60)]
    answer = back.call(lambda: handle.transfer(IN | ISOC_END, size=100, packets=packets))
    assert (answer.data, answer.errors) == (b"g" * 10, 0)
    assert [(one.actual, one.status) for one in answer.packets] == [(10, -(1 << 31)), (0, 1 << 30)]
    back.lie = lambda _urb, answer: [answer]
    assert back.says(handle) == 1


@pytest.mark.parametrize("number", [IDS - 1, IDS, 65535])
def test_r10_a_response_to_no_request_breaks_the_device(back: UsbBack, number: int) -> None:
    raw = back.raw()
    back.lie = lambda _urb, answer: [(number, *answer[1:])]
    raw.send(raw.control(DEVICE))
    back.serve_until(lambda: back.state() is not S.Connected)
    back.until_stopped(f"response for request {number}, which is not in flight")
    back.again()


def test_r10_a_response_that_comes_twice(back: UsbBack) -> None:
    raw = back.raw()
    raw.send(raw.submit(QUIET))
    back.serve_until(lambda: len(back.left) == 1)
    back.lie = lambda _urb, answer: [answer, answer]
    raw.send(raw.control(DEVICE, number=2))
    back.serve_until(lambda: back.state() is not S.Connected)
    back.until_stopped("which is not in flight")
    back.again()


def test_r10_a_response_to_what_is_taken_back_twice(back: UsbBack) -> None:
    raw = back.raw()
    raw.send(raw.submit(QUIET), raw.submit(QUIET, number=2))
    back.serve_until(lambda: len(back.left) == 2)
    back.deaf = True
    raw.send(Short(Code.unlink, 9, 1))
    back.serve_until(lambda: back.asked[-1].pipe.unlink)
    first = (back.asked[-2].id, 0, 0, 8, 0)
    back.answer(first, first)
    back.until_stopped("which is not in flight")
    back.again()


# The rings.


@pytest.mark.parametrize("distance", [1, 17, 1 << 31, -1])
def test_r1_responses_that_cannot_be(back: UsbBack, distance: int) -> None:
    back.ring.raw.jump("rsp_prod", distance)
    back.channel.notify()
    back.until_stopped("rsp_prod")
    back.again()


@pytest.mark.parametrize("distance", [513, 1 << 31, -1])
def test_r1_more_plugs_than_were_asked_for(back: UsbBack, distance: int) -> None:
    back.plugs.raw.jump("rsp_prod", distance)
    back.channel.notify()
    back.until_stopped("rsp_prod")
    back.again()


def test_r5_what_the_backend_scribbles_over_the_frontends_words_changes_nothing(back: UsbBack) -> None:
    raw = back.raw()
    before = back.ring.raw.get("req_prod")
    for ring in (back.ring.raw, back.plugs.raw):
        ring.scribble(16, b"\xff" * 48)
        ring.set("rsp_event", 1 << 31)
    back.ring.raw.set("req_prod", 12345)
    raw.socket.sendall(raw.control(DEVICE).emit())
    until(lambda: back.ring.raw.get("req_prod") == before + 1, SECONDS)
    (answer,) = raw.answers(1)
    assert isinstance(answer, Submitted)
    assert answer.actual == 18
    for _ in range(30):
        back.alive()


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x5A])
def test_r12_ring_pages_of_rubbish(early: UsbBack, byte: int) -> None:
    early.until_state(S.Initialising)
    early.say()
    early.ring.raw.fill(byte)
    early.plugs.raw.fill(byte)
    early.set_state(S.Connected)
    early.channel.notify()
    if byte:
        early.until_stopped("rsp_prod")
    early.devices = {1: Gizmo()}
    early.again()


def test_r12_requests_taken_for_responses(back: UsbBack) -> None:
    """The slots that are announced have what usbfront itself wrote into them."""
    back.plugs.raw.jump("rsp_prod", 1)
    back.channel.notify()
    back.until_stopped("something of speed 0 in port 0")
    back.again()


# The ring of plugs.


@pytest.mark.parametrize(("port", "speed"), [(0, 3), (0, 0), (PORTS + 1, 3), (255, 0), (1, 4), (1, 255), (2, 128)])
def test_a_port_or_a_speed_that_there_is_not_breaks_the_device(back: UsbBack, port: int, speed: int) -> None:
    back.tell((port, speed))
    back.until_stopped(f"something of speed {speed} in port {port} of {PORTS}")
    back.again()


def test_ids_of_plugs_are_the_backends_own_affair(back: UsbBack) -> None:
    for number in (65535, 65535, 0, 0, 12345):
        back.respond_plug(3, 0, number)
    back.tell()
    back.plug(2, Gizmo(2))
    back.until_there(2)
    assert back.products() == {1, 2}


def test_a_storm_of_plugs_is_over_when_it_is_over(back: UsbBack) -> None:
    asked = len(back.asked)
    for _ in range(300):
        back.tell(*[(port, speed) for speed in (3, 0, 1, 3, 0, 2) for port in range(1, PORTS + 1)])
    for port in range(1, PORTS + 1):
        back.plug(port, Gizmo(port))
    for port in range(1, PORTS + 1):
        back.until_there(port, f"1209:{port:04x}")
    assert back.products() == set(range(1, PORTS + 1))
    assert len(back.asked) - asked < PORTS * 12 + 4 * IDS, "what has gone is not asked who it was"
    assert back.left == {}


def test_a_storm_of_plugs_without_end_keeps_nobody_waiting(back: UsbBack) -> None:
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():  # there is always more before what there was is done
            back.plugs.ring.respond_many([(one[0], 2, 3) for one in back.plugs.ring.take(64)])
            back.plugs.publish()
            back.channel.notify()

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for _ in range(10):
            with back.socket() as connection:
                connection.sendall(LISTING)
                assert connection.recv(1 << 16), "an answer"
    finally:
        over.set()
        thread.join()
    back.unplug(2)
    back.alive()


def test_something_plugged_in_where_something_is(back: UsbBack) -> None:
    stick = MockStick()
    for product in (2, 3):
        back.plug(2, Gizmo(product))
        back.until_there(2, f"1209:{product:04x}")
    handle = back.open(3)
    back.plug(2, stick)
    file = back.until_disk(2)
    with pytest.raises(OSError, match="No such device"):
        back.says(handle)
    back.plug(2, stick)
    back.serve_until(lambda: back.key("disk/2/xenfs-file") not in ("", file))
    assert reads(back, back.until_disk(2), 1 << 19) == good()
    assert back.products() == {1, 0x57}


def test_something_plugged_in_while_what_was_there_says_what_it_is(back: UsbBack) -> None:
    for setup in (FIRST, Setup(0, Ask.set_address, 2), CONFIGURE):
        there = stopping(back, setup, 2)
        back.plug(2, Gizmo(2))
        back.serve_until(there)
        back.lie = lambda _urb, answer: [answer]
        back.plug(2, Gizmo(3))
        back.until_there(2, "1209:0003")
        back.unplug(2)
        back.until_gone(2)


def test_a_late_answer_to_what_was_there_before_disturbs_nobody(back: UsbBack) -> None:
    there = stopping(back, FIRST, 2)
    back.plug(2, Gizmo(2))
    back.serve_until(there)
    late = next(urb for urb in back.asked if urb.pipe.port == 2)
    back.lie, back.deaf = (lambda _urb, answer: [answer]), True
    back.plug(2, Gizmo(3))
    back.until_there(2, "1209:0003")
    back.put(late, Gizmo(2).device)
    back.answer((late.id, 0, 0, 18, 0))
    handle = back.open(3)
    for _ in range(5):
        assert back.says(handle) == 3


def test_unplugged_while_it_is_being_configured_it_is_not_there(back: UsbBack) -> None:
    there = stopping(back, CONFIGURE, 2)
    back.plug(2, Gizmo(2))
    back.serve_until(there)
    number = next(urb.id for urb in back.asked if urb.special == CONFIGURE.emit())
    back.unplug(2)
    back.alive()
    back.answer((number, 0, 0, 0, 0))
    back.alive()
    assert back.key("port/2") == ""


# Keys.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num-ports", None), ("num-ports", ""), ("num-ports", "0"), ("num-ports", "32"), ("num-ports", "-1"),
        ("num-ports", "8 "), ("num-ports", "9" * 4000), ("num-ports", "\xff"), ("usb-ver", None), ("usb-ver", "0"),
        ("usb-ver", "3"), ("usb-ver", "2.0"),
    ],
)  # fmt: skip
def test_x18_a_controller_that_cannot_be_is_refused_and_a_possible_one_taken(
    early: UsbBack, key: str, value: str | None
) -> None:
    path = f"{early.path}/{key}"
    before = early.store.read(path)
    early.until_state(S.Initialising)
    if value is None:
        early.store.rm(path)
    else:
        early.store.write(path, value.encode("latin-1"))
    early.set_state(S.InitWait)
    early.until_stopped(f"{path} ")
    early.store.write(path, before)
    early.devices = {1: Gizmo()}
    early.again()


def test_fewer_ports_than_before(back: UsbBack) -> None:
    back.plug(5, Gizmo(5))
    back.until_there(5)
    back.let_go()
    back.store.write(f"{back.path}/num-ports", "2")
    del back.devices[5]
    back.come_back()
    back.until_gone(5)
    back.alive()
    back.tell((5, 3))
    back.until_stopped("in port 5 of 2")


def test_a_key_that_the_guest_may_not_write_is_said(early: UsbBack) -> None:
    early.until_state(S.Initialising)
    early.store.mkdir(f"{early.front_path}/port")
    early.store.chmod(f"{early.front_path}/port", ["n0"])
    early.connect({1: Gizmo()})
    early.serve_until(lambda: early.state() is not S.Connected)
    early.until_stopped("Permission denied")
    early.store.chmod(f"{early.front_path}/port", [f"n{early.domid}"])
    early.again()


# Devices that lie about themselves.


def test_u10_devices_that_lie_about_themselves(machine: UsbMachine) -> None:
    there = list(liars())
    with machine.back(31) as back:
        back.connect({1: Gizmo()})
        for begin in range(0, len(there), 29):
            some = dict(enumerate(there[begin : begin + 29], 2))
            for port, (_, device) in some.items():
                back.plug(port, device)
            back.plug(31, Gizmo(31))
            for port, (name, _) in some.items():
                said = back.until_said(port)
                assert said.isascii(), name
                assert said.isprintable(), name
                assert name.startswith(("device", "always")) is not said.startswith("1209:"), (name, said)
            back.until_there(31)
            assert {1, 31} <= back.products()
            printable(back, "-v")
            printable(back)
            for port in some:
                back.tell((port, 0))
            back.unplug(31)
            for port in (*some, 31):
                back.until_gone(port)
        back.alive()


def printable(back: UsbBack, *words: str) -> None:
    """What `xenfs lsusb` says, with the first device in it."""
    line = [sys.executable, "-m", "xenfs", "lsusb", *words, str(back.domid)]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = back.call(lambda: subprocess.run(line, capture_output=True, env=environment, check=False, timeout=SECONDS))
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"ID 1209:0001 Maker Gizmo\n" in done.stdout
    assert all(text.isprintable() for text in done.stdout.decode().split("\n"))


def test_u10_a_device_that_says_nothing_for_ever_is_given_up(back: UsbBack) -> None:
    back.plug(2, Dead())
    back.plug(3, Gizmo(3))
    back.until_there(3)
    assert back.key("port/2") == ""
    back.until_there(2, "it does not say what it is (shutdown)")
    assert [urb.pipe.port for urb in back.asked if urb.pipe.unlink] == [2]
    assert back.left == {}
    back.plug(2, Gizmo(2))
    back.until_there(2)


def test_u10_many_that_say_nothing_are_no_hindrance(machine: UsbMachine) -> None:
    with machine.back(31, hasty=10) as back:
        back.connect({port: Dead() for port in range(2, 32)})
        back.plug(1, Gizmo())
        back.until_there(1)
        for port in range(2, 32):
            back.until_there(port, "it does not say what it is (shutdown)")
        back.alive()
        assert back.left == {}


# Sticks that lie.


def test_u10_mass_storage_without_its_endpoints_is_no_disk(back: UsbBack) -> None:
    for port, device in enumerate(ENDLESS, 2):
        back.plug(port, device)
        back.until_there(port)
    back.alive()
    assert not any(device.commands for device in ENDLESS)


def test_u10_sticks_that_are_no_disks(machine: UsbMachine) -> None:
    sticks: list[MockStick] = []
    for capacity, capacity16 in CAPACITIES.values():
        sticks.append(MockStick())
        sticks[-1].capacity, sticks[-1].capacity16 = capacity, capacity16
    for lie in (*LIES.values(), *NEVER.values()):
        sticks.append(MockStick())
        sticks[-1].lie = when(0x25, lie)
    assert len(sticks) <= 30
    with machine.back(31, hasty=10) as back:
        back.connect({1: Gizmo(), **dict(enumerate(sticks, 2))})
        for port in range(2, 2 + len(sticks)):
            words = f"port {port}: a stick that does not work: no disk"
            back.until_logged(words)
            assert back.key(f"disk/{port}/xenfs-file") == "", port
        back.alive()
        back.plug(2, MockStick())
        assert Path(back.until_disk(2)).name == "sda"
        assert back.left == {}


@pytest.mark.parametrize("size", [512, 1 << 17])
def test_u10_reads_that_lie_are_the_readers_errors(back: UsbBack, size: int) -> None:
    device, other = MockStick(), MockStick()
    back.plug(2, device)
    file = back.until_disk(2)
    back.plug(3, other)
    others = back.until_disk(3)
    for lie in LIES.values():
        device.lie = when(0x28, lie)
        assert reads(back, file, 1 << 19, size) == FAILED
        assert reads(back, others, 1 << 19, size) == good(size)
        device.lie = honest
    assert reads(back, file, 1 << 19, size) == good(size)


def test_u10_reads_that_are_never_answered_are_the_readers_errors(hasty: UsbBack) -> None:
    device, other = MockStick(), MockStick()
    hasty.plug(2, device)
    file = hasty.until_disk(2)
    hasty.plug(3, other)
    others = hasty.until_disk(3)
    for at, lie in enumerate(NEVER.values()):
        device.lie = when(0x28, lie)
        reader = hasty.start(READ, file, str(1 << 19), str(1 << 17))
        hasty.serve_until(lambda: bool(hasty.left))
        assert reads(hasty, others, (1 << 18) * (at + 1)) == good()
        assert hasty.finish(reader) == FAILED
    device.lie = honest
    assert reads(hasty, file, 1 << 19) == good()
    assert hasty.left == {}


def test_u10_writes_that_lie_are_the_writers_errors(back: UsbBack) -> None:
    device = MockStick()
    back.plug(2, device)
    file = back.until_disk(2)
    for name, lie in LIES.items():
        if "short data" in name or "no data" in name:
            continue
        device.lie = when(0x2A, lie)
        assert back.finish(back.start(WRITE, file, str(1 << 19), "8192")) == FAILED, name
    device.lie = honest
    assert back.finish(back.start(WRITE, file, str(1 << 19), "8192")) == ("8192\n", "")


def test_a_lie_that_is_told_once_is_forgiven(back: UsbBack) -> None:
    device = MockStick()
    back.plug(2, device)
    file = back.until_disk(2)
    for at, lie in enumerate(LIES.values()):

        def once(words: bytes, data: bytes, right: bytes, lie: Lied = lie) -> tuple[Answer, Answer]:
            device.lie = honest
            return lie(words, data, right)

        device.lie = when(0x28, once)
        assert reads(back, file, (1 << 18) + at * (1 << 15)) == good()  # of what was refused Linux asks again itself


@pytest.mark.parametrize("late", [None, Status.nodev, Status.ok])
@pytest.mark.parametrize("size", [512, 1 << 17])
def test_u7_unplugged_while_somebody_reads(back: UsbBack, size: int, late: Status | None) -> None:
    device = MockStick()
    back.plug(2, device)
    file = back.until_disk(2)
    device.lie = when(0x28, NEVER["never anything"])
    reader = back.start(READ, file, str(1 << 19), str(size))
    back.serve_until(lambda: len(back.left) >= 2)
    back.unplug(2)
    if late is not None:
        while back.left:
            number, urb = back.left.popitem()
            back.answer((number, 0, int(late), urb.length, 0))
    said, wrong = back.finish(reader)
    assert said.strip() in GONE, wrong
    back.until_gone(2)
    assert not Path(file).exists()
    back.alive()
    back.plug(2, MockStick())
    assert reads(back, back.until_disk(2), 1 << 19, size) == good(size)


def test_a_guest_of_more_sticks_than_letters(back: UsbBack) -> None:
    for port, letter in enumerate("abcdefghijklmnopqrstuvwxyz", 1):
        path = f"/local/domain/{back.domid}/device/vusb/9/disk/{port}/xenfs-file"
        back.store.write(path, f"/somewhere/sd{letter}")
    back.store.chmod(f"/local/domain/{back.domid}/device/vusb/9", [f"n{back.domid}"])
    back.plug(2, MockStick())
    assert Path(back.until_disk(2)).name == "sdaa"


def test_a_stick_that_is_read_for_long_takes_no_memory(back: UsbBack) -> None:
    back.plug(2, MockStick())
    file = back.until_disk(2)
    before = back.memory()
    assert back.finish(back.start(OVER_AND_OVER, file))[0] == "65536000\n"
    assert back.memory() - before < 20 << 20


# Transfers that are never answered.


def test_u6_what_is_taken_back_and_not_answered_holds_up_nobody(back: UsbBack) -> None:
    back.plug(2, MockStick())
    file = back.until_disk(2)
    raw, other = back.raw(), back.open()
    back.deaf = True
    raw.send(*[raw.submit(QUIET, number=number) for number in range(1, 5)])
    raw.send(*[Short(Code.unlink, 100 + number, number) for number in range(1, 5)])
    for at in range(5):
        assert back.says(other) == 1
        assert reads(back, file, (1 << 18) + at * (1 << 16)) == good()
    assert sum(urb.pipe.unlink for urb in back.asked) == 4
    back.again()


def test_u6_a_backend_that_takes_nothing_back_leaves_readers_an_error(hasty: UsbBack) -> None:
    device = MockStick()
    hasty.plug(2, device)
    file = hasty.until_disk(2)
    device.lie, hasty.deaf = when(0x28, NEVER["never anything"]), True
    assert reads(hasty, file, 1 << 19) == FAILED
    hasty.plug(3, Dead())
    hasty.until_there(3, "it does not say what it is (shutdown)")
    device.lie = honest
    del hasty.devices[3]
    hasty.again()
    assert reads(hasty, hasty.until_disk(2), 1 << 19) == good()


def test_u6_what_was_done_before_it_was_taken_back_was_done(back: UsbBack) -> None:
    raw = back.raw()
    back.deaf = True
    raw.send(raw.submit(QUIET))
    back.serve_until(lambda: len(back.left) == 1)
    raw.send(Short(Code.unlink, 2, 1))
    back.serve_until(lambda: back.asked[-1].pipe.unlink)
    ((number, urb),) = back.left.items()
    back.put(urb, b"in time!")
    back.answer((number, 0, 0, 8, 0), (back.asked[-1].id, 0, int(Status.inval), 0, 0))
    done, unlinked = raw.answers(2)
    assert isinstance(done, Submitted)
    assert (done.status, done.data) == (0, b"in time!")
    assert isinstance(unlinked, Short)
    assert unlinked.value == 0
    assert raw.statuses(raw.submit(BULK)) == [0]


def test_r11_transfers_for_nobody_are_no_more_than_there_are_ids(back: UsbBack) -> None:
    back.deaf = True
    asked = len(back.asked)
    for _ in range(30):
        raw = back.raw()
        raw.send(*[raw.submit(QUIET, number=number) for number in range(40)])
        raw.close()
    back.serve_until(lambda: len(back.asked) - asked == IDS)
    assert len(back.places()) == 1
    assert len(back.asked) - asked == IDS
    assert {urb.id for urb in back.asked} == set(range(IDS))
    back.again()


def test_r11_what_may_last_for_ever_leaves_room_for_the_rest(back: UsbBack) -> None:
    back.plug(2, MockStick())
    file = back.until_disk(2)
    raw, other = back.raw(), back.open()
    raw.send(*[raw.submit(QUIET, number=number) for number in range(1, 1000)])
    back.serve_until(lambda: len(back.left) == IDS // 2)
    assert back.says(other) == 1
    assert reads(back, file, 1 << 19, 1 << 17) == good(1 << 17)
    back.plug(3, Gizmo(3))
    back.until_there(3)
    raw.close()
    back.serve_until(lambda: not back.left)
    assert back.call(lambda: other.transfer(IN | BULK, size=8)).data == b"g" * 8


# Programs of the guest's that do not keep to the protocol.


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
        b"\xff" * 64, bytes(8), OP.pack(0x0106, Op.list_request, 0), OP.pack(VERSION, 0x8004, 0), LISTING * 1000,
        OP.pack(VERSION, Op.import_reply, 0), bytes(range(256)) * 200,
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
        back.serve_until(lambda: len(back.left) == IDS // 2)
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
