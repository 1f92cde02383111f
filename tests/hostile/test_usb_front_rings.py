"""Group R against usbfront: rings that are not what a backend says they are, and plugs that cannot be."""

from __future__ import annotations

import threading

import pytest
from xenusb.descriptors import Ask, Setup
from xenusb.urbs import IDS
from xenusb.usbip import Submitted

from tests.hostile.peer import SECONDS
from tests.hostile.usb_back import PORTS, UsbBack
from tests.hostile.usb_front import CONFIGURE, DEVICE, FIRST, LISTING, back, early, good, machine, reads, stopping
from tests.hostile.usb_liars import Gizmo, MockStick
from tests.mounted.mount import until
from xenfs.abi.xenbus import XenbusState as S

__all__ = ["back", "early", "machine"]
pytestmark = pytest.mark.timeout(120)


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
