"""Groups U (U12) and X (X18) against usbfront: a backend that comes and goes, or says what cannot be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from xenusb.descriptors import Ask, Setup
from xenusb.remote import RESET_PORT
from xenusb.usbip import Submitted

from tests.hostile.usb_back import UNLUCKY, UsbBack, UsbMachine
from tests.hostile.usb_front import (
    ADDRESS,
    CONFIGURE,
    DEVICE,
    FIRST,
    IN,
    READ,
    WRITE,
    back,
    early,
    good,
    machine,
    reads,
    stopping,
)
from tests.hostile.usb_liars import BULK, QUIET, Gizmo, MockStick, honest
from xenfs.abi.usbif import Status
from xenfs.abi.xenbus import XenbusState as S

PATIENCE = 6.0
"""Seconds in which usbfront expects devices back."""
__all__ = ["back", "early", "machine"]
pytestmark = pytest.mark.timeout(120)


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


def test_a_device_that_is_being_reset_is_not_taken_for_one_that_does_not_come_back(back: UsbBack) -> None:
    back.let_go()
    back.come_back()
    looks = time.monotonic() + PATIENCE
    back.alive()
    back.serve_until(lambda: time.monotonic() > looks - 2)
    raw = back.raw()
    there = stopping(back, Setup(0, Ask.set_address, 2))
    raw.send(raw.control(Setup(*RESET_PORT)))
    back.serve_until(there)
    urb = back.asked[-1]
    back.serve_until(lambda: time.monotonic() > looks + 1)
    back.lie = lambda _urb, answer: [answer]
    back._addresses[1] = 2
    back.answer((urb.id, 0, 0, 0, 0))
    assert raw.answers(1) == [Submitted(1, 0, 0)]
    back.alive()


def test_what_did_not_work_the_first_time_works_the_next(machine: UsbMachine) -> None:
    with machine.back(program=UNLUCKY) as back:
        back.until_state(S.Initialising)
        back.set_state(S.InitWait)
        back.until_stopped("No space left on device")
        back.set_state(S.Closed)
        back.until_state(S.Initialising)
        back.devices[1] = Gizmo()
        back.come_back()
        back.until_there(1)
        back.alive()
