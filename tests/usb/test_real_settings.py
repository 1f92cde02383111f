"""What a RealDevice is set to, which libusb has to know of."""

from __future__ import annotations

import pytest
from xenusb.descriptors import STANDARD, TO_ENDPOINT, TO_INTERFACE, Ask, Setup

from tests.usb.real_program import Bench
from tests.usb.real_samples import BULK_IN, DRIVERS, INTERRUPT, KEYS, OTHER, SECOND, SOUND, STORAGE
from xenfs.abi.usbif import PipeType


def test_a_configuration_is_set_in_spite_of_the_hosts_drivers(bench: Bench) -> None:
    """The kernel sets none while there are any, and offers each interface to them as soon as it has set one."""
    assert bench.set(Ask.set_configuration, 1) == ("ok", 0)
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}


def test_another_configuration_has_other_interfaces(bench: Bench) -> None:
    assert bench.set(Ask.set_configuration, 2) == ("ok", 0)
    assert bench.usbfs.configuration is SECOND
    assert bench.usbfs.drivers == {STORAGE: "usbfs", OTHER: "usbfs"}
    bench.do("close")
    bench.usbfs.until_closed()
    assert bench.usbfs.drivers == DRIVERS


def test_a_configuration_that_is_not_there_stalls(bench: Bench) -> None:
    assert bench.set(Ask.set_configuration, 7) == ("stall", 0)
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}


def test_no_configuration_is_one_too(bench: Bench) -> None:
    assert bench.set(Ask.set_configuration, 0) == ("ok", 0)
    assert (bench.usbfs.configuration, bench.usbfs.drivers) == (None, {})
    assert bench.usbfs.calls[-1] == ("set_configuration", -1)
    assert bench.set(Ask.set_configuration, 1) == ("ok", 0)
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}


def test_what_runs_ends_when_a_configuration_is_set(bench: Bench) -> None:
    """For the kernel it ends without an error."""
    number = bench.submit(BULK_IN, 512)
    assert bench.set(Ask.set_configuration, 1) == ("ok", 0)
    assert bench.over(number) == ("shutdown", 0)
    assert bench.rest() == []


def test_a_setting_of_an_interface_is_set(bench: Bench) -> None:
    assert bench.set(Ask.set_interface, 1, KEYS, TO_INTERFACE) == ("ok", 0)
    assert bench.usbfs.alternates == {KEYS: 1}


def test_what_runs_in_an_interface_ends_when_it_is_set(bench: Bench) -> None:
    keys, storage = bench.submit(INTERRUPT, 8, PipeType.interrupt), bench.submit(BULK_IN, 512)
    assert bench.set(Ask.set_interface, 1, KEYS, TO_INTERFACE) == ("ok", 0)
    assert bench.over(keys) == ("shutdown", 0)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"undisturbed")
    assert bench.over(storage) == ("ok", 11)


@pytest.mark.parametrize(("number", "alternate"), [(KEYS, 9), (9, 0), (999, 0)])
def test_a_setting_that_is_not_there_stalls(bench: Bench, number: int, alternate: int) -> None:
    assert bench.set(Ask.set_interface, alternate, number, TO_INTERFACE) == ("stall", 0)


def test_a_halt_is_cleared(bench: Bench) -> None:
    assert bench.set(Ask.clear_feature, 0, BULK_IN, TO_ENDPOINT) == ("ok", 0)
    assert ("clear_halt", BULK_IN) in bench.usbfs.calls


def test_the_halt_of_no_endpoint_stalls(bench: Bench) -> None:
    assert bench.set(Ask.clear_feature, 0, 0x87, TO_ENDPOINT) == ("stall", 0)


def test_other_standard_requests_are_the_devices(bench: Bench) -> None:
    number = bench.control(Setup(STANDARD << 5, Ask.set_feature, 1))
    urb = bench.usbfs.urb(0)
    assert urb.setup == Setup(0, Ask.set_feature, 1)
    bench.usbfs.complete(urb)
    assert bench.over(number) == ("ok", 0)
