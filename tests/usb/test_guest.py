"""What programs of a guest have of its USB devices: a loop-back's transfers."""

from __future__ import annotations

import errno
import threading

import pytest
from xenusb.descriptors import Setup
from xenusb.device import Packet

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import IN, LOOPBACK, OUT, Bay
from xenfs.abi.usbif import Status

pytestmark = pytest.mark.timeout(180)

PYUSB = """
import usb.core, usb.util
dev = usb.core.find(idVendor=0x1209, idProduct=0x5857)
assert dev is not None
print(dev.manufacturer, dev.product, dev.serial_number, dev.bNumConfigurations, hex(dev.bcdUSB), dev.speed)
dev.set_configuration()
cfg = dev.get_active_configuration()
print(cfg.bConfigurationValue, [(i.bInterfaceNumber, i.bAlternateSetting, i.bNumEndpoints) for i in cfg])
dev.set_interface_altsetting(interface=0, alternate_setting=1)
intf = cfg[(0, 1)]
out = usb.util.find_descriptor(intf, custom_match=lambda e:
    usb.util.endpoint_direction(e.bEndpointAddress) == usb.util.ENDPOINT_OUT)
print(hex(out.bEndpointAddress), out.wMaxPacketSize)
print(dev.ctrl_transfer(0x40, 1, 0, 0, b"control"), bytes(dev.ctrl_transfer(0xC0, 2, 0, 0, 64)))
data = bytes(i * 7 & 0xFF for i in range(300000))
print(dev.write(1, data), bytes(dev.read(0x81, 300000)) == data)
print(dev.write(2, b"interrupt"), bytes(dev.read(0x82, 64)))
print(dev.write(3, b"i" * 3000), bytes(dev.read(0x83, 3000)) == b"i" * 3000)
try:
    dev.read(0x82, 64, timeout=50)
except usb.core.USBTimeoutError as error:
    print("timeout", error.errno)
dev.ctrl_transfer(0x40, 3)
for attempt in range(2):
    try:
        dev.read(0x81, 64)
    except usb.core.USBError as error:
        print("halted", error.errno)
dev.clear_halt(0x81)
dev.clear_halt(0x01)
print(dev.write(1, b"again"), bytes(dev.read(0x81, 64)))
dev.reset()
dev.set_interface_altsetting(interface=0, alternate_setting=1)
print(dev.write(1, b"reset"), bytes(dev.read(0x81, 64)))
try:
    dev.ctrl_transfer(0xC0, 99, 0, 0, 8)
except usb.core.USBError as error:
    print("refused", error.errno)
print(dev.is_kernel_driver_active(0))
usb.util.dispose_resources(dev)
"""
SAID = """xenfs Loopback 1 1 0x200 3
1 [(0, 0, 0), (0, 1, 6)]
0x1 512
7 b'control'
300000 True
9 b'interrupt'
3000 True
timeout 110
halted 32
halted 32
5 b'again'
5 b'reset'
refused 32
False
"""


def test_a_program_of_pyusb_unchanged(bay: Bay, domid: int) -> None:
    done = bay.program(domid, PYUSB)
    assert done.stdout == SAID, done.stderr[-2000:]


def test_frames_have_each_its_status(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as handle:
        handle.control(Setup(1, 11, 1, 0))
        sent = b"goodlostlong" + b"more"
        out = [Packet(at, 4) for at in range(0, 16, 4)]
        assert [(one.actual, one.status) for one in handle.transfer(OUT | 3, sent, packets=out).packets] == [(4, 0)] * 4
        answer = handle.transfer(IN | 3, size=20, packets=[Packet(at, 4) for at in range(0, 20, 4)])
        statuses = [(one.actual, one.status) for one in answer.packets]
        assert statuses == [(4, 0), (0, Status.ioerror), (0, Status.babble), (4, 0), (0, 0)]
        assert (answer.data, answer.actual, answer.errors) == (b"goodmore", 8, 2)


def test_threads_wait_each_for_their_own(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as handle:
        handle.control(Setup(1, 11, 1, 0))
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(handle.transfer(IN | 2, size=64, seconds=30).data))
        reader.start()
        for number in range(20):
            handle.transfer(OUT | 1, bytes([number]))
            assert handle.transfer(IN | 1, size=8).data == bytes([number])
        handle.transfer(OUT | 2, b"wake up")
        reader.join(30)
        assert got == [b"wake up"]


def test_an_interface_is_whose_who_claimed_it(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as first, bay.opened(domid, LOOPBACK) as second:
        first.control(Setup(1, 11, 1, 0))
        first.transfer(OUT | 1, b"mine")
        with pytest.raises(OSError, match="busy") as caught:
            second.transfer(IN | 1, size=8)
        assert caught.value.errno == errno.EBUSY
        first.close()
        until(lambda: _reads(second), SECONDS)


def _reads(handle: object) -> bool:
    try:
        return bool(handle.transfer(IN | 1, size=8).data == b"mine")  # type: ignore[attr-defined]
    except OSError:
        return False


def test_unplugged_in_the_middle_of_a_transfer_and_plugged_again(bay: Bay, domid: int) -> None:
    for _ in range(3):
        with bay.opened(domid, LOOPBACK) as handle:
            handle.control(Setup(1, 11, 1, 0))
            failed: list[int | None] = []

            def wait(handle: object = handle, failed: list[int | None] = failed) -> None:
                try:
                    handle.transfer(IN | 2, size=8, seconds=30)  # type: ignore[attr-defined]
                except OSError as error:
                    failed.append(error.errno)

            waiting = threading.Thread(target=wait)
            waiting.start()
            until(lambda: bay.in_flight(domid) == 1, SECONDS)
            bay.plug(domid, 1, "")
            waiting.join(30)
            assert failed == [errno.ENODEV]
            with pytest.raises(OSError, match="No such device"):
                handle.control(Setup(0x80, 6, 0x100, 0, 18))
        bay.until_gone(domid, 1)
        bay.plug(domid, 1, "loopback:")
        bay.until_there(domid, 1)


def test_what_is_asked_behind_a_large_transfer_does_not_overtake_it(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as handle:
        handle.control(Setup(1, 11, 1, 0))
        results: dict[int, bytes] = {}

        def ask(size: int) -> threading.Thread:
            def read() -> None:
                results[size] = handle.transfer(IN | 1, size=size, seconds=30).data

            thread = threading.Thread(target=read)
            thread.start()
            return thread

        reader = ask(100_000)
        until(lambda: bay.in_flight(domid) == 1, SECONDS)
        second = ask(10)
        writers = [
            threading.Thread(target=handle.transfer, args=(OUT | 1, data)) for data in (b"a" * 100_000, b"b" * 10)
        ]
        before = bay.usb_stats(domid)[0].bytes_out
        writers[0].start()
        until(lambda: bay.usb_stats(domid)[0].bytes_out > before, SECONDS)
        writers[1].start()
        for thread in (*writers, reader, second):
            thread.join(30)
        assert results == {100_000: b"a" * 100_000, 10: b"b" * 10}
