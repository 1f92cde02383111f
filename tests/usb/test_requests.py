"""What every emulated device answers to the requests of chapter 9, in a port that is in memory."""

from __future__ import annotations

import struct

import pytest
from xenusb.descriptors import TO_DEVICE, TO_ENDPOINT, TO_INTERFACE, Ask, Configuration, DeviceDescriptor, Kind, text
from xenusb.gadget import Gadget

from tests.usb.port import OF_CLASS, OF_VENDOR, Port, got
from xenfs.abi.usbif import PipeType, Speed, Status


def test_device_descriptor_is_what_the_device_is(port: Port, gadget: Gadget) -> None:
    data = port.descriptor(Kind.device)
    found, about = DeviceDescriptor.parse(data), gadget.about
    assert found is not None
    assert (len(data), found.configurations, found.usb) == (18, 1, 0x0200)
    assert (found.vendor, found.product, found.klass) == (about.vendor, about.product, about.klass)
    assert found.strings == (1, 2, 3 if about.serial else 0)


def test_endpoint_0_has_small_packets_where_the_device_is_slow(port: Port, gadget: Gadget) -> None:
    assert port.descriptor(Kind.device)[7] == (8 if gadget.speed is Speed.low else 64)


@pytest.mark.usefixtures("gadget")
def test_a_descriptor_is_cut_to_what_the_host_wants(port: Port) -> None:
    for kind in (Kind.device, Kind.configuration):
        whole = port.descriptor(kind)
        for size in (0, 1, 8, 9, len(whole) - 1, len(whole), len(whole) + 1):
            assert port.descriptor(kind, 0, size) == whole[:size]


@pytest.mark.usefixtures("gadget")
def test_a_descriptor_comes_into_as_many_views_as_there_are(port: Port) -> None:
    transfer = port.control(TO_DEVICE, Ask.get_descriptor, Kind.device << 8, 0, 64, 1, 7, 5)
    assert got(transfer) == port.descriptor(Kind.device)
    assert [len(view) for view in transfer.views] == [1, 7, 5, 51]


def test_configuration_says_what_the_device_has(port: Port, gadget: Gadget) -> None:
    head = port.descriptor(Kind.configuration, 0, 9)
    whole = port.descriptor(Kind.configuration, 0, struct.unpack_from("<H", head, 2)[0])
    found = Configuration.parse(whole)
    assert found is not None
    assert (found.odd, found.interfaces) == ((), gadget.interfaces)
    assert port.control(TO_DEVICE, Ask.get_descriptor, Kind.configuration << 8 | 1, 0, 9).status is Status.stall


def test_strings_and_the_languages_that_they_are_in(port: Port, gadget: Gadget) -> None:
    about = gadget.about
    assert port.descriptor(Kind.string, 0) == bytes.fromhex("04 03 09 04"), "English"
    said = [text(port.ask(TO_DEVICE, Ask.get_descriptor, Kind.string << 8 | number, 0x0409)) for number in (1, 2, 3)]
    assert said == [about.maker, about.name, about.serial]
    for number in (4, 255):
        assert port.control(TO_DEVICE, Ask.get_descriptor, Kind.string << 8 | number, 0, 255).status is Status.stall


def test_only_a_fast_device_says_what_it_is_at_another_speed(port: Port, gadget: Gadget) -> None:
    transfer = port.control(TO_DEVICE, Ask.get_descriptor, Kind.qualifier << 8, 0, 10)
    if gadget.speed is Speed.high:
        assert got(transfer)[:2] == bytes((10, Kind.qualifier))
        assert got(transfer)[2:8] == port.descriptor(Kind.device)[2:8]
    else:
        assert transfer.status is Status.stall


@pytest.mark.usefixtures("gadget")
def test_a_configuration_is_chosen_and_given_up(port: Port) -> None:
    for value in (0, 1, 1, 0, 1):
        port.tell(TO_DEVICE, Ask.set_configuration, value)
        assert port.ask(TO_DEVICE, Ask.get_configuration, 0, 0, 1) == bytes((value,))
    for value in (2, 255):
        assert port.control(TO_DEVICE, Ask.set_configuration, value).status is Status.stall
    assert port.ask(TO_DEVICE, Ask.get_configuration, 0, 0, 1) == b"\1", "it has the one that it had"


@pytest.mark.usefixtures("gadget")
def test_nothing_is_configured_at_first(port: Port) -> None:
    assert port.ask(TO_DEVICE, Ask.get_configuration, 0, 0, 1) == b"\0"


def test_status_of_what_there_is(port: Port, gadget: Gadget) -> None:
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    for one in gadget.interfaces:
        assert port.ask(TO_INTERFACE, Ask.get_status, 0, one.number, 2) == b"\0\0"
        for end in () if one.alternate else one.endpoints:
            assert not port.halted(end.address)
    assert not port.halted(0)
    assert not port.halted(0x80)
    for address in (0x0F, 0x8F):
        assert port.control(TO_ENDPOINT, Ask.get_status, 0, address, 2).status is Status.stall


@pytest.mark.usefixtures("gadget")
def test_a_device_has_its_power_from_the_bus_and_wakes_nobody_up(port: Port) -> None:
    found = Configuration.parse(port.descriptor(Kind.configuration))
    assert found is not None
    assert found.attributes == 0x80
    for value in (0, 1):
        port.tell(TO_DEVICE, Ask.set_configuration, value)
        assert port.ask(TO_DEVICE, Ask.get_status, 0, 0, 2) == b"\0\0"


@pytest.mark.parametrize(("ask", "size"), [(Ask.get_interface, 1), (Ask.get_status, 2)])
def test_there_are_no_interfaces_without_a_configuration(port: Port, gadget: Gadget, ask: Ask, size: int) -> None:
    for value, status in ((0, Status.stall), (1, Status.ok), (0, Status.stall)):
        port.tell(TO_DEVICE, Ask.set_configuration, value)
        for one in gadget.interfaces:
            assert port.control(TO_INTERFACE, ask, 0, one.number, size).status is status


@pytest.mark.parametrize(("ask", "size"), [(Ask.get_interface, 1), (Ask.get_status, 2)])
def test_an_interface_that_is_none_is_stalled(port: Port, gadget: Gadget, ask: Ask, size: int) -> None:
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    last = max(one.number for one in gadget.interfaces)
    for number in (last + 1, 0xFF, 0x100, 0xFFFF):
        assert port.control(TO_INTERFACE, ask, 0, number, size).status is Status.stall


UNKNOWN: dict[str, tuple[int, int, int, int, bytes | int]] = {
    "SET_DESCRIPTOR": (TO_DEVICE, Ask.set_descriptor, 0x0100, 0, b"abc"),
    "SYNCH_FRAME": (TO_ENDPOINT, Ask.synch_frame, 0, 0x81, 2),
    "a standard request that is none": (TO_DEVICE, 2, 0, 0, b""),
    "another": (TO_DEVICE, 0xFF, 0, 0, 4),
    "a standard request to something else": (3, Ask.get_status, 0, 0, 2),
    "SET_CONFIGURATION of an interface": (TO_INTERFACE, Ask.set_configuration, 1, 0, b""),
    "waking up": (TO_DEVICE, Ask.set_feature, 1, 0, b""),
    "a descriptor that is none": (TO_DEVICE, Ask.get_descriptor, 0x7700, 0, 64),
    "a descriptor of an interface that is none": (TO_INTERFACE, Ask.get_descriptor, 0x7700, 0, 64),
    "a request of its class": (OF_CLASS, 0x77, 0, 0, b""),
    "one with an answer": (OF_CLASS, 0x77, 0, 0, 8),
    "a request of its vendor": (OF_VENDOR, 0x77, 0, 0, b"abc"),
    "a kind of requests that is reserved": (0x60, 0, 0, 0, 8),
}


@pytest.mark.usefixtures("gadget")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_stalled_and_the_next_request_is_not(port: Port, name: str) -> None:
    kind, request, value, index, data = UNKNOWN[name]
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    transfer = port.control(kind, request, value, index, data)
    assert (transfer.status, transfer.actual) == (Status.stall, 0)
    assert port.ask(TO_DEVICE, Ask.get_configuration, 0, 0, 1) == b"\1"


def test_a_control_transfer_without_a_setup_packet_is_none(port: Port, gadget: Gadget) -> None:
    transfer = port.make(PipeType.control, 0, 8)
    gadget.submit(transfer)
    assert transfer.status is Status.inval
