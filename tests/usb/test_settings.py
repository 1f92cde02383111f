"""Settings of an interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from xenusb import serial
from xenusb.descriptors import TO_DEVICE, TO_ENDPOINT, TO_INTERFACE, Ask
from xenusb.loopback import BULK, Loopback
from xenusb.serial import Serial

from tests.usb.gadgets import ends_of
from tests.usb.port import HALT, Port, got
from xenfs.abi.usbif import Status


def test_a_setting_has_its_own_endpoints(port: Port) -> None:
    port.plug(Loopback)
    assert port.ask(TO_INTERFACE, Ask.get_interface, 0, 0, 1) == b"\0"
    assert port.bulk(BULK, 8).status is Status.inval
    port.tell(TO_INTERFACE, Ask.set_interface, 1)
    assert port.ask(TO_INTERFACE, Ask.get_interface, 0, 0, 1) == b"\1"
    transfer = port.bulk(BULK, 8)
    assert not transfer.over
    port.tell(TO_INTERFACE, Ask.set_interface, 0)
    assert transfer.status is Status.shutdown
    assert port.bulk(BULK, 8).status is Status.inval


@pytest.mark.usefixtures("back")
def test_the_same_setting_again_ends_nothing(port: Port) -> None:
    transfer = port.bulk(BULK, 8)
    port.tell(TO_INTERFACE, Ask.set_interface, 1)
    port.bulk(BULK, b"abc")
    port.settle()
    assert got(transfer) == b"abc"


@pytest.mark.parametrize("chosen", [(1,), (0, 1)])
def test_a_setting_begins_without_halts_also_when_it_is_chosen_again(
    port: Port, back: Loopback, chosen: Sequence[int]
) -> None:
    addresses = [end.address for end in ends_of(back)]
    for address in addresses:
        port.tell(TO_ENDPOINT, Ask.set_feature, HALT, address)
    for setting in chosen:
        port.tell(TO_INTERFACE, Ask.set_interface, setting)
    assert not any(port.halted(address) for address in addresses)
    transfer = port.bulk(BULK, 8)
    port.bulk(BULK, b"abc")
    port.settle()
    assert got(transfer) == b"abc"


def test_a_setting_leaves_the_halts_of_another_interface(port: Port, tmp_path: Path) -> None:
    port.plug(Serial, str(tmp_path / "line"))
    addresses = serial.NOTES | 0x80, serial.IN | 0x80, serial.OUT
    for address in addresses:
        port.tell(TO_ENDPOINT, Ask.set_feature, HALT, address)
    port.tell(TO_INTERFACE, Ask.set_interface, 0, 1)
    assert [port.halted(address) for address in addresses] == [True, False, False]


def test_a_setting_that_is_not_there_is_stalled(port: Port) -> None:
    port.plug(Loopback, configure=False)
    assert port.control(TO_INTERFACE, Ask.set_interface, 1).status is Status.stall, "nor any without a configuration"
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    for setting, interface in ((2, 0), (0, 1), (1, 1), (0xFFFF, 0)):
        assert port.control(TO_INTERFACE, Ask.set_interface, setting, interface).status is Status.stall
    assert port.ask(TO_INTERFACE, Ask.get_interface, 0, 0, 1) == b"\0"


@pytest.mark.usefixtures("back")
def test_another_configuration_has_the_first_settings(port: Port) -> None:
    transfer = port.bulk(BULK, 8)
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    assert transfer.status is Status.shutdown
    assert port.ask(TO_INTERFACE, Ask.get_interface, 0, 0, 1) == b"\0"
