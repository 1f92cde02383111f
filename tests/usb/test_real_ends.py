"""A RealDevice's transfers that end before their time: cancelled, by a reset, closed and unplugged."""

from __future__ import annotations

import errno
import random

import pytest
from xenusb.descriptors import TO_ENDPOINT, Ask, Setup

from tests.usb.real_program import Bench
from tests.usb.real_samples import BULK_IN, BULK_OUT, INTERRUPT, ISOC_IN, KEYS, SOUND, STORAGE
from xenfs.abi.usbif import PipeType

# Ends before their time


def test_a_cancelled_transfer_ends_once(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.do("cancel", number=number)
    assert bench.over(number) == ("shutdown", 0)
    assert (bench.usbfs.flying(), bench.rest()) == ([], [])


def test_a_transfer_that_is_over_cannot_be_cancelled(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.over(number) == ("ok", 0)
    bench.do("cancel", number=number)
    assert bench.rest() == []


def test_a_transfer_may_be_cancelled_before_it_is_heard_of(bench: Bench) -> None:
    bench.usbfs.at_once[BULK_IN] = b"too late"
    order = bench.order(BULK_IN, 512)
    bench.tell(order, {"do": "cancel", "number": order["number"]})
    assert bench.over(order["number"]) == ("shutdown", 0)
    assert bench.rest() == []


def test_the_memory_of_a_cancelled_transfer_is_left_alone(bench: Bench) -> None:
    """A guest may use it for something else by then."""
    bench.usbfs.at_once[BULK_IN] = b"too late"
    order = bench.order(BULK_IN, 8)
    bench.tell(order, {"do": "cancel", "number": order["number"]})
    bench.rest()
    bench.do("look", number=order["number"])
    assert bench.until("looked")["data"] == bytes(8).hex()


def test_others_go_on_when_one_is_cancelled(bench: Bench) -> None:
    first, second = bench.submit(BULK_IN, 512), bench.submit(BULK_IN, 512)
    bench.usbfs.urb(BULK_IN)
    bench.do("cancel", number=first)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"data")
    assert (bench.over(first), bench.over(second)) == (("shutdown", 0), ("ok", 4))


def test_a_reset_ends_all_and_the_device_stays(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(INTERRUPT, 8, PipeType.interrupt)]
    bench.do("reset")
    assert [bench.over(number) for number in numbers] == [("shutdown", 0)] * 2
    assert ("reset", 0) in bench.usbfs.calls
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}
    again = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"still here")
    assert bench.over(again) == ("ok", 10)


def test_a_device_that_is_another_after_the_reset_is_gone(bench: Bench) -> None:
    bench.usbfs.deny["reset"] = errno.ENODEV
    bench.do("reset")
    assert bench.until("unplugged")["why"] == "1-2: it is gone"


def test_a_reset_that_fails_is_told(bench: Bench) -> None:
    bench.usbfs.deny["reset"] = errno.EPERM
    bench.do("reset")
    assert bench.until("said")["line"] == "1-2: not reset: LIBUSB_ERROR_OTHER [-99]"


def test_closing_ends_all(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(BULK_IN, 512), bench.control(Setup(0xC0, 1, length=8))]
    bench.do("close")
    assert [bench.over(number) for number in numbers] == [("nodev", 0)] * 3
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_what_ends_may_close_the_device(bench: Bench) -> None:
    first, second = bench.submit(BULK_IN, 512, then={"do": "close"}), bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"last")
    assert (bench.over(first), bench.over(second)) == (("ok", 4), ("nodev", 0))
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_what_is_cancelled_for_a_configuration_may_close_the_device(bench: Bench) -> None:
    first = bench.submit(BULK_IN, 512, then={"do": "close"})
    assert bench.set(Ask.set_configuration, 2) == ("nodev", 0)
    assert bench.over(first) == ("shutdown", 0)
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_a_closed_device_does_nothing(bench: Bench) -> None:
    before = bench.submit(BULK_IN, 512)
    bench.do("close")
    assert bench.over(before) == ("nodev", 0)
    assert bench.over(bench.submit(BULK_IN, 512)) == ("nodev", 0)
    assert bench.set(Ask.set_configuration, 1) == ("nodev", 0)
    bench.tell({"do": "cancel", "number": before}, {"do": "reset"}, {"do": "close_again"})
    assert bench.rest() == []


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_between_each_transfer_ends_once(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    numbers: list[int] = []
    for _ in range(150):
        step = chance.random()
        if step < 0.5:
            endpoint = chance.choice([BULK_IN, BULK_OUT, INTERRUPT])
            kind = PipeType.interrupt if endpoint == INTERRUPT else PipeType.bulk
            numbers.append(bench.submit(endpoint, bytes(99) if endpoint == BULK_OUT else 8, kind))
        elif step < 0.8 and (flying := bench.usbfs.flying()):
            bench.usbfs.complete(chance.choice(flying))
        elif step < 0.98 and numbers:
            bench.do("cancel", number=chance.choice(numbers))
        elif step >= 0.98:
            bench.do("reset")
    if seed % 2:
        bench.do("close")
    else:
        bench.usbfs.unplug()
        bench.until("unplugged")
    bench.usbfs.until_closed()
    assert sorted(event["number"] for event in bench.events if event["event"] == "over") == numbers


# Unplugging


def test_unplugging_ends_all_and_is_told_once(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(INTERRUPT, 8, PipeType.interrupt)]
    bench.usbfs.unplug()
    assert [bench.over(number) for number in numbers] == [("nodev", 0)] * 2
    assert bench.until("unplugged")["why"] == "1-2: it is gone"
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_unplugging_ends_isochronous_ones(sound: Bench) -> None:
    number = sound.submit(ISOC_IN, 20, PipeType.isoc, packets=[[0, 10], [10, 10]])
    sound.usbfs.unplug()
    assert sound.over(number) == ("nodev", 0)


def test_unplugging_an_idle_device_is_told(bench: Bench) -> None:
    bench.usbfs.unplug()
    assert bench.until("unplugged")["why"] == "1-2: it is gone"
    assert bench.rest() == []


def test_a_transfer_tells_of_unplugging_where_libusb_does_not(empty: Bench) -> None:
    """Its registering for such news fails."""
    empty.do("fail", kind="USBContext", method="hotplugRegisterCallback", error="USBErrorNotSupported")
    empty.plug()
    number = empty.submit(INTERRUPT, 8, PipeType.interrupt)
    empty.usbfs.unplug()
    assert empty.over(number) == ("nodev", 0)
    assert empty.until("unplugged")["why"] == "1-2: it is gone"


def test_what_is_asked_of_a_device_that_has_just_gone_ends(bench: Bench) -> None:
    bench.usbfs.deny["submit"] = errno.ENODEV
    assert bench.over(bench.submit(BULK_IN, 512)) == ("nodev", 0)
    assert bench.until("unplugged")["why"] == "1-2: it is gone"


def test_what_is_set_of_a_device_that_has_just_gone_ends(bench: Bench) -> None:
    bench.usbfs.deny["clear_halt"] = errno.ENODEV
    assert bench.set(Ask.clear_feature, 0, BULK_IN, TO_ENDPOINT) == ("nodev", 0)
    assert bench.until("unplugged")["why"] == "1-2: it is gone"


def test_an_unplugged_device_is_not_there_any_more(bench: Bench) -> None:
    bench.usbfs.unplug()
    bench.until("unplugged")
    why = "there is no such device; there are 1-3, 1-3.4, 1-4, 1-5"
    assert bench.plug()["error"] == [errno.ENODEV, why, "1-2"]
