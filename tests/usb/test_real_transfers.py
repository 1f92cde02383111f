"""Transfers of a RealDevice, see real_program.py."""

from __future__ import annotations

import errno
import os

import pytest
from xenusb.descriptors import STANDARD, VENDOR, Ask, Setup

from tests.usb.real_program import Bench
from tests.usb.real_samples import BULK_IN, BULK_OUT, DEVICE, INTERRUPT, ISOC_IN, ISOC_OUT, SECOND
from xenfs.abi.usbif import PipeType, Status

OF_VENDOR = VENDOR << 5


# Transfers


def test_a_control_transfer_brings_what_the_device_answers(bench: Bench) -> None:
    number = bench.control(Setup(0x80, Ask.get_descriptor, 0x0100, 0, 18))
    urb = bench.usbfs.urb(0)
    assert urb.setup == Setup(0x80, Ask.get_descriptor, 0x0100, 0, 18)
    bench.usbfs.complete(urb, DEVICE.about.emit())
    found = bench.until("over", number=number)
    assert (found["status"], found["data"]) == ("ok", DEVICE.about.emit().hex())


def test_a_control_transfer_takes_what_the_host_sends(bench: Bench) -> None:
    number = bench.control(Setup(OF_VENDOR, 1, 2, 3, 5), b"hello")
    urb = bench.usbfs.urb(0)
    assert (urb.setup, urb.data) == (Setup(OF_VENDOR, 1, 2, 3, 5), b"hello")
    bench.usbfs.complete(urb)
    assert bench.over(number) == ("ok", 5)


@pytest.mark.parametrize("inward", [True, False])
def test_a_control_transfer_may_have_no_data(bench: Bench, inward: bool) -> None:
    number = bench.control(Setup(OF_VENDOR | 0x80 * inward, 1))
    bench.usbfs.complete(bench.usbfs.urb(0))
    assert bench.over(number) == ("ok", 0)


def test_bulk_data_comes_from_the_device(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"a sector, and a short one")
    found = bench.until("over", number=number)
    assert (found["status"], found["actual"]) == ("ok", 25)
    assert bytes.fromhex(found["data"])[:25] == b"a sector, and a short one"


@pytest.mark.parametrize("size", [0, 1, 512, 100_000])
def test_bulk_data_goes_to_the_device(bench: Bench, size: int) -> None:
    data = os.urandom(size)
    number = bench.submit(BULK_OUT, data)
    urb = bench.usbfs.urb(BULK_OUT)
    assert urb.data == data
    bench.usbfs.complete(urb)
    assert bench.over(number) == ("ok", size)


def test_interrupts_come_from_the_device(bench: Bench) -> None:
    number = bench.submit(INTERRUPT, 8, PipeType.interrupt)
    urb = bench.usbfs.urb(INTERRUPT)
    assert urb.type == 1
    bench.usbfs.complete(urb, b"\0\0\x04\0\0\0\0\0")
    assert bench.until("over", number=number)["data"] == "0000040000000000"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (errno.EPIPE, Status.stall), (errno.EOVERFLOW, Status.babble), (errno.EPROTO, Status.ioerror),
        (errno.EILSEQ, Status.ioerror), (errno.ETIME, Status.ioerror),
    ],
)  # fmt: skip
def test_the_devices_errors_are_those_of_usbif(bench: Bench, code: int, status: Status) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), status=-code)
    assert bench.over(number) == (status.name, 0)


def test_a_control_request_may_stall(bench: Bench) -> None:
    number = bench.control(Setup(0x80, Ask.get_descriptor, 0x0F00, 0, 5))
    bench.usbfs.complete(bench.usbfs.urb(0), status=-errno.EPIPE)
    assert bench.over(number) == ("stall", 0)


def test_less_than_all_is_an_error_if_it_is_said_so(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512, whole=True)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), bytes(10))
    assert bench.over(number) == ("ioerror", 10)


def test_transfers_end_in_the_order_of_the_device(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(INTERRUPT, 8, PipeType.interrupt), bench.submit(BULK_OUT, b"x")]
    for endpoint in (BULK_OUT, INTERRUPT, BULK_IN):
        bench.usbfs.complete(bench.usbfs.urb(endpoint))
    assert [bench.until("over")["number"] for _ in numbers] == numbers[::-1]


def test_an_endpoint_that_is_not_there_is_an_error(bench: Bench) -> None:
    assert bench.over(bench.submit(0x87, 64)) == ("inval", 0)


def test_more_than_the_kernel_takes_is_an_error(bench: Bench) -> None:
    bench.usbfs.deny["submit"] = errno.ENOMEM
    assert bench.over(bench.submit(BULK_IN, 64)) == ("inval", 0)


def test_nothing_is_done_while_nothing_happens(bench: Bench) -> None:
    bench.submit(INTERRUPT, 8, PipeType.interrupt)
    assert bench.rest() == []


def test_what_ends_may_begin_the_next(bench: Bench) -> None:
    second = bench.order(BULK_IN, 512)
    first = bench.submit(BULK_IN, 512, then=second)
    for data in (b"one", b"three"):
        bench.usbfs.complete(bench.usbfs.urb(BULK_IN), data)
    assert [bench.over(first), bench.over(second["number"])] == [("ok", 3), ("ok", 5)]


def test_what_ends_may_change_the_configuration(bench: Bench) -> None:
    """libusb itself has its transfers end where it must not be asked that."""
    setup = Setup(STANDARD << 5, Ask.set_configuration, 2)
    second = bench.order(0, b"", PipeType.control, setup=setup.emit().hex())
    bench.submit(BULK_IN, 512, then=second)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.over(second["number"]) == ("ok", 0)
    assert bench.usbfs.configuration is SECOND


def test_what_is_raised_when_one_ends_is_not_lost(bench: Bench) -> None:
    """ctypes would write of it, and go on."""
    bench.submit(BULK_IN, 512, then={"do": "raise"})
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.until("unplugged")["why"] == "a test had this raised"


def test_libusb_may_be_interrupted(bench: Bench) -> None:
    """Its handling of events fails."""
    bench.rest()
    bench.do("fail", kind="USBContext", method="handleEventsTimeout", error="USBErrorInterrupted")
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"data")
    assert bench.over(number) == ("ok", 4)


def test_when_libusb_fails_the_device_is_gone(bench: Bench) -> None:
    """Its handling of events fails."""
    bench.rest()
    bench.do("fail", kind="USBContext", method="handleEventsTimeout", error="USBErrorIO")
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.until("unplugged")["why"] == "[Errno 5] libusb: LIBUSB_ERROR_IO [-1]: '1-2'"
    assert bench.over(number) == ("nodev", 0)


# Isochronous ones


def test_isochronous_packets_come_each_to_its_place(sound: Bench) -> None:
    number = sound.submit(ISOC_IN, 40, PipeType.isoc, packets=[[0, 10], [20, 10], [30, 10]])
    urb = sound.usbfs.urb(ISOC_IN)
    assert urb.packets == [10, 10, 10]
    sound.usbfs.complete_packets(urb, [b"0123456789", -errno.EILSEQ, b"abc"])
    found = sound.until("over", number=number)
    assert (found["status"], found["actual"]) == ("ok", 13)
    assert found["packets"] == [[10, Status.ok], [0, Status.ioerror], [3, Status.ok]]
    assert bytes.fromhex(found["data"]) == b"0123456789" + bytes(20) + b"abc" + bytes(7)


def test_isochronous_packets_go_each_from_its_place(sound: Bench) -> None:
    number = sound.submit(ISOC_OUT, b"first, second", PipeType.isoc, packets=[[0, 5], [7, 6]])
    urb = sound.usbfs.urb(ISOC_OUT)
    assert (urb.packets, urb.data) == ([5, 6], b"firstsecond")
    sound.usbfs.complete_packets(urb, [bytes(5), bytes(6)])
    found = sound.until("over", number=number)
    assert (found["actual"], found["packets"]) == (11, [[5, Status.ok], [6, Status.ok]])


def test_empty_isochronous_packets_are_left_out(sound: Bench) -> None:
    number = sound.submit(ISOC_IN, 40, PipeType.isoc, packets=[[0, 0], [20, 10], [40, 0]])
    urb = sound.usbfs.urb(ISOC_IN)
    assert urb.packets == [10]
    sound.usbfs.complete_packets(urb, [b"0123456789"])
    found = sound.until("over", number=number)
    assert (found["actual"], found["packets"]) == (10, [[0, Status.ok], [10, Status.ok], [0, Status.ok]])
    assert bytes.fromhex(found["data"])[20:30] == b"0123456789"


def test_nothing_but_empty_packets_is_over_at_once(sound: Bench) -> None:
    assert sound.over(sound.submit(ISOC_IN, 40, PipeType.isoc, packets=[[0, 0], [9, 0]])) == ("ok", 0)
