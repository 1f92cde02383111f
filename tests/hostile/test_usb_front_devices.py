"""Group U (U7, U10) against usbfront: devices that lie about themselves, and sticks that lie about what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from xenusb.usbip import Code

from tests.hostile.peer import SECONDS
from tests.hostile.usb_back import WITHOUT_FUSE, UsbBack, UsbMachine
from tests.hostile.usb_front import FAILED, READ, WRITE, back, early, good, hasty, machine, reads
from tests.hostile.usb_liars import (
    CAPACITIES,
    ENDLESS,
    LIES,
    NEVER,
    Answer,
    Dead,
    Gizmo,
    Lied,
    MockStick,
    honest,
    liars,
    refusing,
    when,
)
from tests.mounted.mount import until
from xenfs.abi.usbif import Status
from xenfs.abi.xenbus import XenbusState as S

__all__ = ["back", "early", "hasty", "machine"]
pytestmark = pytest.mark.timeout(120)
OVER_AND_OVER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
room = mmap.mmap(-1, 1 << 16)
print(sum(os.preadv(fd, [room], at % 8 << 16) for at in range(1000)))
"""
SYNCHRONIZE = b"\x35".ljust(10, b"\0")
SYNC = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(fd, bytes(512), 0)
try:
    os.fsync(fd)
    print("done")
except OSError as error:
    print(error.strerror)
"""
GONE = ("Input/output error", "Transport endpoint is not connected", "Software caused connection abort")


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


def test_a_disk_that_cannot_be_made_is_missing_and_nothing_else(machine: UsbMachine) -> None:
    with machine.back(program=WITHOUT_FUSE) as back:
        back.connect({1: Gizmo(), 2: MockStick()}).until_there(1)
        back.until_logged("port 2: there is no /dev/fuse: no disk")
        back.until_there(2)
        back.alive()
        assert (back.key("error"), back.state()) == ("", S.Connected)


def test_a_stick_that_comes_up_to_speed_is_waited_for(back: UsbBack) -> None:
    sticks = [MockStick(number) for number in (2, 3, 4)]
    for port, stick in enumerate(sticks, 2):
        stick.lie = refusing(0, 2, 4, 1)
        back.plug(port, stick)
    back.serve_until(lambda: all(stick.commands.count(bytes(6)) > 1 for stick in sticks))
    sticks[0].lie, sticks[1].lie = refusing(0xFF, 2, 4, 1), refusing(0, 2, 0x3A)  # the first refuses nothing any more
    assert reads(back, back.until_disk(2), 1 << 19) == good()
    back.until_logged("port 3: a stick that does not work: no disk")
    back.unplug(4)
    back.until_gone(4)
    asked = len(sticks[2].commands)
    back.again()
    assert reads(back, back.until_disk(2), 1 << 18) == good()
    assert len(sticks[2].commands) == asked


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


def test_a_stick_that_has_no_cache_to_be_written_has_written_everything(back: UsbBack) -> None:
    device = MockStick()
    back.plug(2, device)
    file = back.until_disk(2)
    for sense in ((5, 0x24), (3, 0x0C), (2, 0x3A)):
        device.lie = refusing(0x35, *sense)
        assert back.finish(back.start(SYNC, file)) == FAILED
    device.lie = refusing(0x35, 5, 0x20)
    assert back.finish(back.start(SYNC, file)) == ("done\n", "")
    asked = device.commands.count(SYNCHRONIZE)
    assert back.finish(back.start(SYNC, file)) == ("done\n", "")
    assert device.commands.count(SYNCHRONIZE) == asked, "it is not asked again"


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


def test_u7_unplugged_while_its_driver_lets_go_of_it(back: UsbBack) -> None:
    device = MockStick()
    back.plug(2, device)
    back.until_disk(2)
    handle = back.open(0x57)
    device.lie = when(0x35, NEVER["never anything"])

    def unplug() -> None:
        until(lambda: bool(back.left), SECONDS)
        back.unplug(2)

    unplugger = threading.Thread(target=unplug)
    unplugger.start()
    assert back.call(lambda: handle.own(Code.detach_driver, 0)) == 0
    unplugger.join()
    back.until_gone(2)


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
