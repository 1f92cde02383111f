"""Every emulated device by itself: what a host asks of it, in a port that is in memory, and what it answers."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
import termios
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xenusb import keyboard, loopback, serial, stick
from xenusb.bulk_only import FAILED, GET_MAX_LUN, PASSED, PHASE_ERROR, RESET, STATUS, Command, Outcome
from xenusb.descriptors import (
    TO_DEVICE,
    TO_ENDPOINT,
    TO_INTERFACE,
    VENDOR,
    Ask,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    Kind,
    Setup,
    text,
)
from xenusb.device import Host, Transfer
from xenusb.gadget import About, Gadget, Stall
from xenusb.keyboard import Keyboard
from xenusb.loopback import BULK, INTERRUPT, ISOC, Loopback
from xenusb.ports import find
from xenusb.serial import Serial
from xenusb.stick import Stick

from tests.usb.port import HALT, OF_CLASS, OF_VENDOR, SECONDS, Port, descriptors, got
from xenfs.abi.usbif import PipeType, Speed, Status

LIMIT = 1 << 18
"""More bytes than any pipe or pty keeps for a reader that does not come."""


@pytest.fixture
def port() -> Iterator[Port]:
    with closing(Port()) as port:
        yield port


def image(path: Path, blocks: int = 8) -> Path:
    """An image in which every block is another."""
    path.write_bytes(b"".join(f"block {number}".encode().ljust(512, b".") for number in range(blocks)))
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


Arguments = Callable[[Path], str]
DEVICES: dict[str, tuple[type[Gadget], Arguments]] = {
    "stick": (Stick, lambda path: str(image(path / "image"))),
    "keyboard": (Keyboard, lambda path: str(fifo(path / "keys"))),
    "serial": (Serial, lambda path: str(path / "line")),
    "loopback": (Loopback, lambda _: ""),
}


@pytest.fixture(params=DEVICES)
def gadget(request: pytest.FixtureRequest, port: Port, tmp_path: Path) -> Gadget:
    """Each of the devices, plugged in, not configured."""
    make, argument = DEVICES[request.param]
    return port.plug(make, argument(tmp_path), configure=False)


@pytest.fixture
def back(port: Port) -> Loopback:
    """A loopback whose interface has its endpoints."""
    device = port.plug(Loopback)
    port.tell(TO_INTERFACE, Ask.set_interface, 1)
    return device


# Transfers.


def test_what_is_given_fills_view_after_view(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 10, (3, 0, 2))
    assert transfer.fill(b"abcdefg") == 7
    assert [bytes(view) for view in transfer.views] == [b"abc", b"", b"de", b"fg\0\0\0"]


def test_no_more_is_given_than_there_is_room_for(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 4, (3,))
    transfer.answer(b"abcdefg")
    assert (transfer.status, transfer.actual, got(transfer)) == (Status.ok, 4, b"abcd")


def test_what_the_host_sends_is_copied(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, b"abcdefg", (3, 1))
    data = transfer.data()
    transfer.views[0][:] = b"xyz"
    assert (data, transfer.data()) == (b"abcdefg", b"xyzdefg")


def test_a_transfer_ends_once(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 4)
    transfer.end(Status.ok, 3)
    transfer.end(Status.shutdown)
    transfer.answer(b"abcd")
    assert (port.ended, transfer.status, transfer.actual) == ([transfer], Status.ok, 3)


@pytest.mark.parametrize(
    ("data", "actual", "status"),
    [
        (4, 4, Status.ok),
        (4, 3, Status.ioerror),
        (4, 0, Status.ioerror),
        (0, 0, Status.ok),
        (b"abcd", 3, Status.ok),
    ],
)
def test_less_than_all_is_an_error_where_the_host_says_so(
    port: Port, data: bytes | int, actual: int, status: Status
) -> None:
    transfer = port.make(PipeType.bulk, 1, data, whole=True)
    transfer.end(Status.ok, actual)
    assert (transfer.status, transfer.actual) == (status, actual)
    stalled = port.make(PipeType.bulk, 1, data, whole=True)
    stalled.end(Status.stall)
    assert stalled.status is Status.stall


def test_actual_is_never_more_than_there_was(port: Port) -> None:
    transfer = port.make(PipeType.bulk, 1, 4)
    transfer.end(Status.ok, 5)
    assert transfer.actual == 4


# Chapter 9.


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


def ends_of(gadget: Gadget) -> list[Endpoint]:
    return [end for one in gadget.interfaces for end in one.endpoints]


def use_ends(port: Port, gadget: Gadget) -> None:
    """Choose the settings that have endpoints."""
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    for one in gadget.interfaces:
        if one.alternate:
            port.tell(TO_INTERFACE, Ask.set_interface, one.alternate, one.number)


def test_there_are_no_endpoints_without_a_configuration(port: Port, gadget: Gadget) -> None:
    for end in ends_of(gadget):
        assert port.submit(end.type, end.number, 8 if end.inward else b"abc").status is Status.inval
        assert port.control(TO_ENDPOINT, Ask.get_status, 0, end.address, 2).status is Status.stall
    use_ends(port, gadget)
    port.tell(TO_DEVICE, Ask.set_configuration, 0)
    for end in ends_of(gadget):
        assert port.submit(end.type, end.number, 8 if end.inward else b"abc").status is Status.inval


def test_another_endpoint_type_or_direction_is_refused(port: Port, gadget: Gadget) -> None:
    use_ends(port, gadget)
    addresses = {end.address for end in ends_of(gadget)}
    for end in ends_of(gadget):
        for kind in PipeType:
            if kind is not end.type:
                assert port.submit(kind, end.number, 8 if end.inward else b"abc").status is Status.inval
        if end.address ^ 0x80 not in addresses:
            assert port.submit(end.type, end.number, b"abc" if end.inward else 8).status is Status.inval
    for data in (8, b"abc"):
        assert port.submit(PipeType.bulk, 14, data).status is Status.inval


def waiting(port: Port, gadget: Gadget) -> list[Transfer]:
    """Two transfers for every endpoint on which the device has nothing to say."""
    use_ends(port, gadget)
    ends = [end for end in ends_of(gadget) if end.inward and end.type is not PipeType.isoc]
    found = [port.submit(end.type, end.number, 64) for end in ends for _ in range(2)]
    assert found
    assert not any(transfer.over for transfer in found)
    port.ended.clear()
    return found


def test_what_is_cancelled_ends_once_and_alone(port: Port, gadget: Gadget) -> None:
    first, *others = waiting(port, gadget)
    gadget.cancel(first)
    gadget.cancel(first)
    assert (port.ended, first.status, first.actual) == ([first], Status.shutdown, 0)
    for transfer in reversed(others):
        gadget.cancel(transfer)
    assert port.ended == [first, *reversed(others)]


def test_cancelling_what_is_over_changes_nothing(port: Port, gadget: Gadget) -> None:
    transfer = port.control(TO_DEVICE, Ask.get_configuration, 0, 0, 1)
    gadget.cancel(transfer)
    assert (port.ended, transfer.status, transfer.actual) == ([transfer], Status.ok, 1)


def test_a_reset_ends_everything_and_leaves_the_device_as_just_plugged_in(port: Port, gadget: Gadget) -> None:
    found = waiting(port, gadget)
    gadget.reset()
    gadget.reset()
    port.settle()
    assert sorted(map(id, port.ended)) == sorted(map(id, found))
    assert {(transfer.status, transfer.actual) for transfer in found} == {(Status.shutdown, 0)}
    assert port.ask(TO_DEVICE, Ask.get_configuration, 0, 0, 1) == b"\0"
    again = waiting(port, gadget)
    gadget.reset()
    assert {transfer.status for transfer in again} == {Status.shutdown}


@pytest.mark.parametrize("value", [0, 1])
def test_a_configuration_that_is_given_up_or_chosen_again_ends_everything(
    port: Port, gadget: Gadget, value: int
) -> None:
    found = waiting(port, gadget)
    port.tell(TO_DEVICE, Ask.set_configuration, value)
    assert sorted(map(id, port.ended[:-1])) == sorted(map(id, found))
    assert {transfer.status for transfer in found} == {Status.shutdown}


def test_unplugging_ends_everything(port: Port, gadget: Gadget) -> None:
    found = waiting(port, gadget)
    port.unplug()
    port.settle()
    assert sorted(map(id, port.ended)) == sorted(map(id, found))
    assert {transfer.status for transfer in found} == {Status.nodev}


def test_endpoints_answer_in_the_order_in_which_they_were_asked(port: Port, gadget: Gadget) -> None:
    found = waiting(port, gadget)
    port.unplug()
    for end in ends_of(gadget):
        asked = [transfer for transfer in found if transfer.address == end.address]
        assert [transfer for transfer in port.ended if transfer.address == end.address] == asked


def test_a_halted_endpoint_stalls_until_that_is_cleared(port: Port, gadget: Gadget) -> None:
    first, *others = waiting(port, gadget)
    port.tell(TO_ENDPOINT, Ask.set_feature, HALT, first.address)
    assert port.halted(first.address)
    for transfer in (first, *others):
        assert (transfer.status is Status.stall) is (transfer.address == first.address)
        assert transfer.over is (transfer.address == first.address)
    assert port.submit(first.type, first.endpoint, 64).status is Status.stall
    port.clear(first.address)
    assert not port.halted(first.address)
    again = port.submit(first.type, first.endpoint, 64)
    assert not again.over
    gadget.cancel(again)


def test_a_configuration_begins_without_halts(port: Port, gadget: Gadget) -> None:
    use_ends(port, gadget)
    for end in ends_of(gadget):
        port.tell(TO_ENDPOINT, Ask.set_feature, HALT, end.address)
    use_ends(port, gadget)
    assert not any(port.halted(end.address) for end in ends_of(gadget))


def test_other_features_and_other_endpoints_are_stalled(port: Port, gadget: Gadget) -> None:
    use_ends(port, gadget)
    address = ends_of(gadget)[0].address
    for ask in (Ask.set_feature, Ask.clear_feature):
        for feature, index in ((1, address), (HALT, 0x0E), (HALT, 0x8E)):
            assert port.control(TO_ENDPOINT, ask, feature, index).status is Status.stall
        port.tell(TO_ENDPOINT, ask, HALT, 0)
    assert not port.halted(address)
    assert not port.halted(0)


@pytest.mark.parametrize("name", DEVICES)
def test_descriptors_are_given_back_when_it_is_unplugged(port: Port, tmp_path: Path, name: str) -> None:
    make, argument = DEVICES[name]
    said, before = argument(tmp_path), descriptors()
    for _ in range(3):
        waiting(port, port.plug(make, said))
        port.settle()
        port.unplug()
        port.settle()
    assert descriptors() == before


# Settings of an interface.


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


# What a device of one's own has to say.


class Thermometer(Gadget):
    """As large as a device has to be."""

    about = About(0x1209, 0x0001, "Example", "Thermometer")
    interfaces = (Interface(0, 0xFF, endpoints=(Endpoint(1, True, PipeType.interrupt, 8, 10),)),)
    unit = "C"

    def give(self, _endpoint: int, size: int) -> bytes | None:
        return f"21.5 {self.unit}".encode()[:size]

    def control(self, setup: Setup, data: bytes) -> bytes:
        if (setup.kind, setup.request) != (VENDOR, 1):
            raise Stall
        self.unit = data.decode()
        return b""


def test_a_device_of_a_users_own(port: Port) -> None:
    make, argument = find(f"python:{__name__}:Thermometer:kitchen")
    device = port.plug(make, argument)
    assert isinstance(device, Thermometer)
    assert device.argument == "kitchen"
    assert got(port.interrupt(1, 8)) == b"21.5 C"
    port.tell(OF_VENDOR, 1, data=b"F")
    assert got(port.interrupt(1, 8, 5)) == b"21.5 F"
    assert got(port.interrupt(1, 4)) == b"21.5"
    assert port.control(OF_VENDOR, 2).status is Status.stall
    assert text(port.descriptor(Kind.string, 2)) == "Thermometer"
    assert port.bulk(1, 8).status is Status.inval


class Script(Gadget):
    """A device that answers as a test says, on either endpoint."""

    about = About(1, 2, "maker", "Script")
    interfaces = (
        Interface(0, 0xFF, endpoints=(Endpoint(1, True, PipeType.bulk, 512), Endpoint(1, False, PipeType.bulk, 512))),
    )

    def __init__(self, argument: str, host: Host) -> None:
        super().__init__(argument, host)
        self.answers: deque[bytes | Exception] = deque()
        self.taken: list[bytes] = []

    def _next(self) -> bytes | None:
        if not self.answers:
            return None
        if isinstance(answer := self.answers.popleft(), Exception):
            raise answer
        return answer

    def give(self, _endpoint: int, _size: int) -> bytes | None:
        return self._next()

    def take(self, _endpoint: int, data: bytes) -> bool:
        if self._next() is None:
            return False
        self.taken.append(data)
        return True

    def control(self, _setup: Setup, _data: bytes) -> bytes:
        return self._next() or b""


def test_not_now_makes_the_host_wait_until_the_device_is_ready(port: Port) -> None:
    script = port.plug(Script)
    reads, writes = [port.bulk(1, 4) for _ in range(3)], [port.bulk(1, data) for data in (b"abc", b"de")]
    port.ended.clear()
    assert script.waits(1, inward=True)
    assert script.waits(1, inward=False)
    script.answers += (b"one", b"two")
    script.ready(1, inward=True)
    assert [got(transfer) for transfer in port.ended] == [b"one", b"two"]
    assert port.ended == reads[:2]
    script.answers += (b"", b"", b"last")
    script.ready(1, inward=False)
    assert script.taken == [b"abc", b"de"]
    assert port.ended == reads[:2] + writes
    assert not script.waits(1, inward=False)
    script.ready(1, inward=False)
    script.ready(1, inward=True)
    assert got(reads[2]) == b"last"


def test_what_was_cancelled_is_not_served(port: Port) -> None:
    script = port.plug(Script)
    first, second, third = (port.bulk(1, 4) for _ in range(3))
    script.cancel(second)
    script.answers += (b"one", b"two")
    script.ready(1, inward=True)
    assert (got(first), got(second), got(third)) == (b"one", b"", b"two")


@pytest.mark.parametrize("data", [4, b"abcd"])
def test_a_stall_halts_the_endpoint_and_ends_what_waits_behind(port: Port, data: bytes | int) -> None:
    script = port.plug(Script)
    first, second = port.bulk(1, data), port.bulk(1, data)
    other = port.bulk(1, b"other" if isinstance(data, int) else 8)
    script.answers.append(Stall())
    script.ready(1, inward=first.inward)
    assert [transfer.status for transfer in (first, second)] == [Status.stall] * 2
    assert port.ended[-2:] == [first, second]
    assert port.halted(first.address)
    script.answers.append(b"")
    assert port.bulk(1, data).status is Status.stall
    assert not other.over, "the other direction is another endpoint"
    assert len(script.answers) == 1, "and nothing is asked of the device"
    port.clear(first.address)
    assert port.bulk(1, data).status is Status.ok


def test_an_error_of_the_system_ends_one_transfer_and_is_said(port: Port) -> None:
    script = port.plug(Script)
    first, second = port.bulk(1, 4), port.bulk(1, 4)
    script.answers += (OSError(errno.EIO, "it smells", "/dev/nose"), b"fine")
    script.ready(1, inward=True)
    assert (first.status, got(second)) == (Status.ioerror, b"fine")
    script.answers.append(OSError(errno.EIO, "it burns"))
    assert port.control(OF_VENDOR, 1, 0, 0, 4).status is Status.ioerror
    assert port.said == ["/dev/nose: it smells", "Script: it burns"]
    assert not port.gone


def test_a_control_request_gives_no_more_than_is_wanted(port: Port) -> None:
    script = port.plug(Script)
    script.answers.append(bytes(range(64)))
    roomy = port.make(PipeType.control, 0, 64, setup=Setup(0x80 | OF_VENDOR, 1, 0, 0, 8))
    script.submit(roomy)
    assert got(roomy) == bytes(range(8)), "wLength is what counts"
    script.answers.append(bytes(10_000))
    assert port.ask(OF_VENDOR, 1, size=8) == bytes(8)
    script.answers.append(bytes(10_000))
    assert len(port.ask(OF_VENDOR, 1, size=10_000)) == 4096


# Sticks.

IN, OUT = stick.IN, stick.OUT
READY, SENSE, INQUIRY = bytes(6), bytes((3, 0, 0, 0, 18, 0)), bytes((0x12, 0, 0, 0, 36, 0))
SYNCHRONIZE = b"\x35".ljust(10, b"\0")
OUT_OF_RANGE, WRITE_PROTECTED, READ_ERROR, WRITE_ERROR = (5, 0x21, 0), (7, 0x27, 0), (3, 0x11, 0), (3, 0x0C, 0)
NEW = bytes(range(256)) * 16


def read(at: int, count: int) -> bytes:
    return struct.pack(">BxIxHx", 0x28, at, count)


def write(at: int, count: int) -> bytes:
    return struct.pack(">BxIxHx", 0x2A, at, count)


@dataclass
class Ran:
    """What became of a command."""

    verdict: int
    residue: int = 0
    data: bytes = b""


class Mass:
    """A host with a driver for sticks: a step is taken when the one before is over."""

    def __init__(self, port: Port, path: Path, word: str = "") -> None:
        self.port, self.path, self.tag = port, path, 0
        self.stick = port.plug(Stick, f"{path}{word}")

    def command(self, words: bytes, size: int = 0, *, inward: bool = True) -> Transfer:
        """Send a command, and nothing after it."""
        self.tag += 1
        return self.port.bulk(OUT, Command(self.tag, size, inward, 0, words).emit(), 15)

    def status(self) -> Outcome:
        """Have the status, clearing the endpoint when that is halted (figure 2)."""
        for _ in range(2):
            transfer = self.port.bulk(IN, STATUS.size)
            self.port.wait(transfer)
            if transfer.status is not Status.stall:
                break
            self.port.clear(0x81)
        outcome = Outcome.parse(got(transfer))
        assert outcome is not None
        assert outcome.tag == self.tag
        return outcome

    def run(
        self, words: bytes, size: int = 0, sent: bytes | None = None, *, piece: int = LIMIT, cuts: Sequence[int] = ()
    ) -> Ran:
        """Have a command carried out, with `size` bytes expected or those of `sent` given, in transfers of `piece`."""
        size = size if sent is None else len(sent)
        assert self.command(words, size, inward=sent is None).status is Status.ok
        found = b""
        for at in range(0, size, piece):
            part = min(piece, size - at)
            if sent is None:
                transfer = self.port.bulk(IN, part, *cuts)
            else:
                transfer = self.port.bulk(OUT, sent[at : at + part], *cuts)
            self.port.wait(transfer)
            if transfer.status is Status.stall:
                self.port.clear(transfer.address)
                break
            assert transfer.status is Status.ok
            found += got(transfer) if sent is None else b""
            if transfer.actual < part:
                break
        outcome = self.status()
        return Ran(outcome.status, outcome.residue, found)

    def sense(self) -> tuple[int, int, int]:
        """Why the last command failed."""
        ran = self.run(SENSE, 18)
        assert (ran.verdict, ran.residue) == (PASSED, 0)
        return ran.data[2], ran.data[12], ran.data[13]

    def recover(self) -> None:
        """Reset recovery (5.3.4)."""
        self.port.tell(OF_CLASS, RESET)
        self.port.clear(0x81)
        self.port.clear(0x02)

    def works(self) -> None:
        """All is well."""
        blocks = self.path.stat().st_size // 512
        assert self.run(read(0, blocks), blocks * 512) == Ran(PASSED, 0, self.path.read_bytes()[: blocks * 512])


@pytest.fixture
def mass(port: Port, tmp_path: Path) -> Mass:
    return Mass(port, image(tmp_path / "image"))


def test_a_stick_is_one_unit_of_mass_storage(port: Port, mass: Mass) -> None:
    (one,) = mass.stick.configuration.interfaces
    assert (one.klass, one.subclass, one.protocol) == (8, 6, 0x50)
    assert port.ask(OF_CLASS, GET_MAX_LUN, 0, 0, 1) == b"\0"
    serial_number = text(port.descriptor(Kind.string, 3))
    assert len(serial_number) == 8
    assert mass.run(bytes((0x12, 1, 0x80, 0, 255, 0)), 255).data[4:] == serial_number.encode()


def test_what_is_in_the_image_is_read(mass: Mass) -> None:
    data = mass.path.read_bytes()
    assert mass.run(read(0, 8), 4096) == Ran(PASSED, 0, data)
    assert mass.run(read(3, 2), 1024) == Ran(PASSED, 0, data[1536:2560])


def test_what_is_written_is_in_the_image(mass: Mass) -> None:
    before = mass.path.read_bytes()
    assert mass.run(write(2, 3), sent=NEW[:1536]) == Ran(PASSED)
    assert mass.path.read_bytes() == before[:1024] + NEW[:1536] + before[2560:]
    mass.works()


@pytest.mark.parametrize("piece", [512, 1024, 1536, 4096])
@pytest.mark.parametrize("cuts", [(), (1,), (511, 1), (100, 0, 300)])
def test_data_comes_in_any_pieces(mass: Mass, piece: int, cuts: Sequence[int]) -> None:
    assert mass.run(write(0, 8), sent=NEW, piece=piece, cuts=cuts) == Ran(PASSED)
    assert mass.path.read_bytes() == NEW
    assert mass.run(read(0, 8), 4096, piece=piece, cuts=cuts) == Ran(PASSED, 0, NEW)


def test_an_answer_comes_in_any_pieces(mass: Mass) -> None:
    whole = mass.run(INQUIRY, 36)
    assert (whole.verdict, whole.data[8:13]) == (PASSED, b"xenfs")
    assert mass.run(INQUIRY, 36, cuts=(1, 2)) == whole
    assert mass.run(INQUIRY, 36, piece=20) == whole


CASES: dict[str, tuple[bytes, int, bytes | None, int, int, int]] = {
    # the command, what the host expects or sends; the verdict, the residue, and how many bytes are moved
    "1 Hn = Dn": (READY, 0, None, PASSED, 0, 0),
    "2 Hn < Di": (read(0, 1), 0, None, PHASE_ERROR, 0, 0),
    "2 Hn < Di, an answer": (INQUIRY, 0, None, PHASE_ERROR, 0, 0),
    "3 Hn < Do": (write(0, 1), 0, None, PHASE_ERROR, 0, 0),
    "4 Hi > Dn": (READY, 512, None, PASSED, 512, 0),
    "4 Hi > Dn, later": (SYNCHRONIZE, 512, None, PASSED, 512, 0),
    "4 Hi > Dn, no blocks": (read(0, 0), 512, None, PASSED, 512, 0),
    "5 Hi > Di": (read(0, 1), 1024, None, PASSED, 512, 512),
    "5 Hi > Di, an answer": (INQUIRY, 64, None, PASSED, 28, 36),
    "6 Hi = Di": (read(0, 2), 1024, None, PASSED, 0, 1024),
    "7 Hi < Di": (read(0, 2), 512, None, PHASE_ERROR, 512, 0),
    "8 Hi <> Do": (write(0, 1), 512, None, PHASE_ERROR, 512, 0),
    "9 Ho > Dn": (READY, 0, NEW[:512], PASSED, 512, 0),
    "9 Ho > Dn, later": (SYNCHRONIZE, 0, NEW[:512], PASSED, 512, 0),
    "9 Ho > Dn, no blocks": (write(0, 0), 0, NEW[:512], PASSED, 512, 0),
    "10 Ho <> Di": (read(0, 1), 0, NEW[:512], PHASE_ERROR, 512, 0),
    "10 Ho <> Di, an answer": (INQUIRY, 0, NEW[:36], PHASE_ERROR, 36, 0),
    "11 Ho > Do": (write(0, 1), 0, NEW[:1024], PASSED, 512, 512),
    "12 Ho = Do": (write(0, 2), 0, NEW[:1024], PASSED, 0, 1024),
    "13 Ho < Do": (write(0, 2), 0, NEW[:512], PHASE_ERROR, 512, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_thirteen_cases(mass: Mass, case: str) -> None:
    words, size, sent, verdict, residue, moved = CASES[case]
    before = mass.path.read_bytes()
    ran = mass.run(words, size, sent)
    assert (ran.verdict, ran.residue, len(ran.data)) == (verdict, residue, 0 if sent else moved)
    if words[0] == 0x28:
        assert ran.data == before[:moved]
    assert mass.path.read_bytes() == (NEW[:moved] + before[moved:] if sent else before)
    mass.recover()
    mass.works()


@pytest.mark.parametrize("case", CASES)
def test_the_thirteen_cases_in_small_transfers(mass: Mass, case: str) -> None:
    words, size, sent, verdict, residue, moved = CASES[case]
    ran = mass.run(words, size, sent, piece=512)
    assert (ran.verdict, ran.residue, len(ran.data)) == (verdict, residue, 0 if sent else moved)
    mass.works()


def test_a_host_that_sends_less_than_it_said_has_it_written(mass: Mass) -> None:
    before = mass.path.read_bytes()
    mass.command(write(0, 4), 2048, inward=False)
    assert mass.port.bulk(OUT, NEW[:512]).status is Status.ok
    assert mass.port.bulk(OUT, NEW[512:812]).status is Status.ok
    assert (outcome := mass.status()).residue == 2048 - 812
    assert outcome.status == PASSED
    assert mass.path.read_bytes() == NEW[:812] + before[812:]


@pytest.mark.parametrize("size", [0, 512])
def test_a_packet_of_nothing_ends_what_the_host_sends(mass: Mass, size: int) -> None:
    before = mass.path.read_bytes()
    mass.command(write(0, 4), 2048, inward=False)
    status = mass.port.bulk(IN, 13)
    if size:
        mass.port.bulk(OUT, NEW[:size])
    assert not status.over
    assert mass.port.bulk(OUT, b"").status is Status.ok
    assert Outcome.parse(got(status)) == Outcome(mass.tag, 2048 - size, PASSED)
    assert mass.path.read_bytes() == NEW[:size] + before[size:]
    mass.works()


@pytest.mark.parametrize(
    ("words", "size"),
    [(INQUIRY, 20), (SENSE, 4), (b"\x25".ljust(10, b"\0"), 7)],
    ids=["inquiry", "sense", "capacity"],
)
def test_an_answer_that_is_longer_than_the_host_expects_is_cut(mass: Mass, words: bytes, size: int) -> None:
    whole = mass.run(words, 255)
    assert (whole.verdict, len(whole.data) > size) == (PASSED, True)
    assert mass.run(words, size) == Ran(PHASE_ERROR, 0, whole.data[:size])
    mass.recover()
    mass.works()


def test_less_than_the_host_expects_is_a_short_packet(mass: Mass) -> None:
    mass.command(INQUIRY, 64)
    transfer = mass.port.bulk(IN, 64, whole=True)
    assert (transfer.status, transfer.actual) == (Status.ioerror, 36), "it has said what it thinks of that"
    assert mass.status().residue == 28


def test_a_failed_command_says_why_when_asked(mass: Mass) -> None:
    assert mass.run(b"\xff" * 6) == Ran(FAILED)
    assert mass.sense() == (5, 0x20, 0)
    assert mass.sense() == (0, 0, 0)
    assert mass.run(read(8, 1), 512) == Ran(FAILED, 512)
    assert mass.sense() == OUT_OF_RANGE
    assert mass.run(write(7, 2), sent=NEW[:1024]) == Ran(FAILED, 1024)
    assert mass.sense() == OUT_OF_RANGE
    mass.works()


@pytest.mark.parametrize("sent", [None, NEW[:512]])
def test_a_failed_command_stalls_the_data_that_the_host_waits_with(mass: Mass, sent: bytes | None) -> None:
    words = read(8, 1) if sent is None else write(8, 1)
    mass.command(words, 512, inward=sent is None)
    transfer = mass.port.bulk(OUT if sent else IN, sent or 512)
    assert transfer.status is Status.stall
    assert mass.port.halted(transfer.address)
    mass.port.clear(transfer.address)
    assert mass.status() == Outcome(mass.tag, 512, FAILED)


def test_a_stick_that_may_only_be_read(port: Port, tmp_path: Path) -> None:
    path = image(tmp_path / "image")
    path.chmod(0o444)
    before = path.read_bytes()
    mass = Mass(port, path, ",ro")
    assert mass.run(write(0, 1), sent=NEW[:512]) == Ran(FAILED, 512)
    assert mass.sense() == WRITE_PROTECTED
    assert mass.run(bytes((0x1A, 0, 0x3F, 0, 192, 0)), 192).data[2] == 0x80
    assert mass.run(SYNCHRONIZE) == Ran(PASSED)
    mass.works()
    assert path.read_bytes() == before


def test_a_stick_that_may_be_written_says_so(port: Port, tmp_path: Path) -> None:
    mass = Mass(port, image(tmp_path / "image"), ",rw")
    assert mass.run(bytes((0x1A, 0, 0x3F, 0, 192, 0)), 192).data[2] == 0
    assert mass.run(write(0, 1), sent=NEW[:512]) == Ran(PASSED)


def test_command_data_and_status_asked_for_at_once(mass: Mass) -> None:
    port, data = mass.port, mass.path.read_bytes()
    command = mass.command(read(1, 2), 1024)
    first, second, status = port.bulk(IN, 512), port.bulk(IN, 512), port.bulk(IN, 13)
    assert port.ended[-4:] == [command, first, second, status]
    assert got(first) + got(second) == data[512:1536]
    assert Outcome.parse(got(status)) == Outcome(mass.tag, 0, PASSED)


def test_whoever_waits_for_data_and_status_before_the_command_gets_them(mass: Mass) -> None:
    port = mass.port
    data, status = port.bulk(IN, 512), port.bulk(IN, 13)
    assert not data.over
    command = mass.command(read(1, 1), 512)
    assert port.ended[-3:] == [command, data, status]
    assert got(data) == mass.path.read_bytes()[512:1024]


def test_several_commands_queued_ahead(mass: Mass) -> None:
    port, before = mass.port, mass.path.read_bytes()
    inward = [port.bulk(IN, size) for size in (512, 13, 13, 1024, 13, 36, 13, 13)]
    sent = [
        mass.command(read(0, 1), 512),
        mass.command(write(0, 2), 1024, inward=False),
        port.bulk(OUT, NEW[:512]),
        port.bulk(OUT, NEW[512:1024]),
        mass.command(read(0, 2), 1024),
        mass.command(INQUIRY, 36),
        mass.command(READY),
    ]
    assert all(transfer.status is Status.ok and transfer.over for transfer in (*inward, *sent))
    assert got(inward[0]) == before[:512]
    assert got(inward[3]) == NEW[:1024], "in their order"
    assert [Outcome.parse(got(inward[at])) for at in (1, 2, 4, 6, 7)] == [
        Outcome(tag, 0, PASSED) for tag in range(1, 6)
    ]
    assert [transfer for transfer in port.ended if transfer in inward] == inward


def test_commands_wait_for_the_status_of_the_one_before(mass: Mass) -> None:
    port = mass.port
    commands = [mass.command(READY) for _ in range(7)]
    for number in range(7):
        assert [command.over for command in commands] == [True] * (number + 1) + [False] * (6 - number)
        assert Outcome.parse(got(port.bulk(IN, 13))) == Outcome(number + 1, 0, PASSED)


def test_data_for_the_stick_waits_behind_a_command_that_takes_long(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    command, data = mass.command(write(0, 1), 512, inward=False), port.bulk(OUT, NEW[:512])
    first, second = port.bulk(IN, 13), port.bulk(IN, 13)
    assert not any(transfer.over for transfer in (command, data, first, second))
    port.wait(second)
    assert [Outcome.parse(got(one)) for one in (first, second)] == [Outcome(1, 0, PASSED), Outcome(2, 0, PASSED)]
    assert mass.path.read_bytes()[:512] == NEW[:512]


def test_a_stick_is_alive_while_it_synchronizes(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    status = port.bulk(IN, 13)
    assert not status.over, "the answer comes through the loop"
    assert port.ask(OF_CLASS, GET_MAX_LUN, 0, 0, 1) == b"\0"
    assert not port.halted(0x81)
    port.wait(status)
    assert Outcome.parse(got(status)) == Outcome(mass.tag, 0, PASSED)


def test_a_status_that_is_taken_back_is_there_for_the_next_who_asks(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    status = port.bulk(IN, 13)
    mass.stick.cancel(status)
    assert status.status is Status.shutdown
    assert mass.status() == Outcome(mass.tag, 0, PASSED)
    mass.works()


def test_data_that_is_taken_back_is_there_for_the_next_who_asks(mass: Mass) -> None:
    data = mass.port.bulk(IN, 512)
    mass.stick.cancel(data)
    mass.command(read(1, 1), 512)
    assert got(mass.port.bulk(IN, 512)) == mass.path.read_bytes()[512:1024]
    assert mass.status().status == PASSED


def test_nobody_hears_of_what_was_synchronized_before_a_reset(mass: Mass) -> None:
    mass.command(SYNCHRONIZE)
    mass.recover()
    assert mass.command(b"\xff" * 6).over
    assert mass.port.loop.turn(SECONDS), "now it has been synchronized"
    assert mass.status() == Outcome(mass.tag, 0, FAILED)
    mass.works()


def test_a_stick_is_unplugged_while_it_synchronizes(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    status, command = port.bulk(IN, 13), mass.command(READY)
    port.unplug()
    port.settle()
    assert (status.status, command.status) == (Status.nodev, Status.nodev)


def test_a_stick_is_reset_in_the_middle_of_its_data(mass: Mass) -> None:
    mass.command(write(0, 2), 1024, inward=False)
    mass.port.bulk(OUT, NEW[:512])
    mass.stick.reset()
    mass.port.tell(TO_DEVICE, Ask.set_configuration, 1)
    mass.works()
    assert mass.path.read_bytes()[:512] == NEW[:512], "what was written stays"


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize(
    ("words", "size"),
    [(read(0, 2), 1024), (write(0, 2), 1024), (SYNCHRONIZE, 0), (READY, 0)],
    ids=["reading", "writing", "synchronizing", "with a status"],
)
def test_a_stick_begins_anew_when_its_configuration_is_chosen(
    mass: Mass, words: bytes, size: int, value: int
) -> None:  # fmt: skip
    port, writes = mass.port, words == write(0, 2)
    mass.command(words, size, inward=not writes)
    waits = [port.bulk(IN, 13) if writes else mass.command(READY) for _ in range(2)]
    assert not any(transfer.over for transfer in waits)
    for chosen in (value, 1):
        port.tell(TO_DEVICE, Ask.set_configuration, chosen)
    assert [transfer.status for transfer in waits] == [Status.shutdown] * 2
    mass.works()


GOOD = Command(7, 512, True, 0, read(0, 1)).emit()
BAD = {
    "another signature": b"USBS" + GOOD[4:],
    "too short": GOOD[:30],
    "too long": GOOD + b"\0",
    "nothing": b"",
    "no command": GOOD[:14] + b"\0" + GOOD[15:],
    "too much of a command": GOOD[:14] + b"\x11" + GOOD[15:],
    "another unit": GOOD[:13] + b"\1" + GOOD[14:],
    "no unit": GOOD[:13] + b"\xff" + GOOD[14:],
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_is_mended_by_a_reset_only(mass: Mass, name: str) -> None:
    port = mass.port
    status = port.bulk(IN, 13)
    assert port.bulk(OUT, BAD[name]).status is Status.stall
    assert status.status is Status.stall
    assert port.halted(0x81)
    assert port.halted(0x02)
    for _ in range(2):
        port.clear(0x81)
        port.clear(0x02)
        assert mass.command(READY).status is Status.stall
        assert port.bulk(IN, 13).status is Status.stall
    mass.recover()
    mass.works()


def test_an_image_that_is_truncated_is_a_smaller_disk(mass: Mass) -> None:
    os.truncate(mass.path, 1024)
    assert mass.run(read(1, 2), 1024) == Ran(FAILED, 1024)
    assert mass.sense() == OUT_OF_RANGE
    assert mass.run(b"\x25".ljust(10, b"\0"), 8).data == struct.pack(">II", 1, 512)
    mass.works()


def test_an_image_that_is_truncated_while_it_is_read_is_an_error_and_the_stick_lives(mass: Mass) -> None:
    port = mass.port
    mass.command(read(0, 8), 4096)
    assert port.bulk(IN, 1024).status is Status.ok
    os.truncate(mass.path, 1024)
    data = port.bulk(IN, 1024)
    assert (data.status, data.actual) == (Status.stall, 0)
    assert mass.status() == Outcome(mass.tag, 3072, FAILED)
    assert mass.sense() == READ_ERROR
    assert len(port.said) == 1
    assert port.said[0].startswith(f"{mass.path}: ")
    assert not port.gone
    mass.works()


def test_data_that_fails_midway_stalls_all_that_waits_and_the_status_comes_behind_the_halt(mass: Mass) -> None:
    port = mass.port
    data, status = [port.bulk(IN, 1024) for _ in range(4)], port.bulk(IN, 13)
    port.then[data[0]] = lambda: os.truncate(mass.path, 1024)
    command = mass.command(read(0, 8), 4096)
    assert [one.status for one in (*data, status)] == [Status.ok, *[Status.stall] * 4]
    assert port.ended[-6:] == [command, *data, status]
    assert port.halted(0x81)
    port.clear(0x81)
    assert Outcome.parse(got(port.bulk(IN, 13))) == Outcome(mass.tag, 3072, FAILED)
    assert mass.sense() == READ_ERROR
    mass.works()


def test_an_empty_image_has_no_blocks(port: Port, tmp_path: Path) -> None:
    mass = Mass(port, image(tmp_path / "image", 0))
    assert mass.run(read(0, 1), 512) == Ran(FAILED, 512)
    assert mass.sense() == OUT_OF_RANGE


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Nothing is written behind so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_written_is_an_error_and_the_stick_lives(mass: Mass) -> None:
    port, before = mass.port, mass.path.read_bytes()
    with small_files(1024):
        ran = mass.run(write(1, 4), sent=NEW[:2048], piece=512)
    assert ran == Ran(FAILED, 1536), "the host is let have its say, and one block was written"
    assert mass.sense() == WRITE_ERROR
    assert mass.path.read_bytes() == before[:512] + NEW[:512] + before[1024:]
    assert len(port.said) == 1
    mass.works()


def test_two_sticks_know_nothing_of_each_other(port: Port, tmp_path: Path) -> None:
    with closing(Port(port.loop)) as other:
        one, two = Mass(port, image(tmp_path / "one")), Mass(other, image(tmp_path / "two", 4))
        assert one.stick.about.serial != two.stick.about.serial
        one.command(write(0, 1), 512, inward=False)
        assert two.run(write(0, 1), sent=NEW[512:1024]) == Ran(PASSED)
        one.port.bulk(OUT, NEW[:512])
        two.command(b"\xff" * 6)
        assert one.status() == Outcome(1, 0, PASSED)
        assert two.status().status == FAILED
        assert one.sense() == (0, 0, 0)
        assert two.sense() == (5, 0x20, 0)
        assert one.path.read_bytes()[:512] == NEW[:512]
        assert two.path.read_bytes()[:512] == NEW[512:1024]
        one.command(SYNCHRONIZE)
        two.command(SYNCHRONIZE)
        other.unplug()
        assert one.status().status == PASSED
        one.works()


@pytest.mark.parametrize("word", [",rw,ro", ",readonly", ", ro"])
def test_a_stick_of_another_word_is_none(port: Port, tmp_path: Path, word: str) -> None:
    path = image(tmp_path / "image")
    with pytest.raises(OSError, match="neither ro nor rw"):
        port.plug(Stick, f"{path}{word}")


def test_a_stick_of_what_is_no_disk_is_none(port: Port, tmp_path: Path) -> None:
    before = descriptors()
    for path in (tmp_path, tmp_path / "nothing", fifo(tmp_path / "fifo"), Path("/dev/null")):
        with pytest.raises(OSError, match=str(path)):
            port.plug(Stick, str(path))
    assert descriptors() == before


@st.composite
def moves(draw: st.DrawFn) -> tuple[bool, int, int, int, tuple[int, ...]]:
    """Whether it writes; the first block, and how many; blocks of a transfer; sizes of views."""
    at = draw(st.integers(0, 7))
    count = draw(st.integers(1, 8 - at))
    cuts = draw(st.lists(st.integers(0, 170), max_size=3))
    return draw(st.booleans()), at, count, draw(st.integers(1, 8)), tuple(cuts)


@given(script=st.lists(moves(), max_size=12), seed=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_stick_is_what_an_array_of_bytes_is(
    tmp_path_factory: pytest.TempPathFactory,
    script: list[tuple[bool, int, int, int, tuple[int, ...]]],
    seed: int,
) -> None:
    path = image(tmp_path_factory.mktemp("model") / "image")
    model = bytearray(path.read_bytes())
    with closing(Port()) as port:
        mass = Mass(port, path)
        for number, (writes, at, count, blocks, cuts) in enumerate(script):
            part, size = slice(at * 512, (at + count) * 512), count * 512
            if writes:
                model[part] = bytes((seed + number + byte) % 251 for byte in range(size))
                assert mass.run(write(at, count), sent=bytes(model[part]), piece=blocks * 512, cuts=cuts) == Ran(PASSED)
            else:
                ran = mass.run(read(at, count), size, piece=blocks * 512, cuts=cuts)
                assert ran == Ran(PASSED, 0, bytes(model[part]))
    assert path.read_bytes() == model


# Keyboards.

KEYS = 1
NONE = bytes(8)
LETTERS = {(modifiers, code): letter for letter, (modifiers, code) in keyboard.LAYOUT.items()}


@pytest.fixture
def board(port: Port, tmp_path: Path) -> Keyboard:
    return port.plug(Keyboard, str(fifo(tmp_path / "keys")))


@pytest.fixture
def keys(board: Keyboard) -> Path:
    """The FIFO of the keyboard."""
    return Path(board.argument)


class Writer:
    """Somebody who writes into a FIFO, and does not wait."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)

    def write(self, data: bytes) -> int:
        """As much as there is room for."""
        done = 0
        with suppress(BlockingIOError):
            while done < len(data):
                done += os.write(self.fd, data[done : done + 4096])
        return done

    def close(self) -> None:
        os.close(self.fd)


def say(port: Port, keys: Path, said: str | bytes) -> None:
    """Write into the FIFO, and let the keyboard read it."""
    data = said.encode() if isinstance(said, str) else said
    with closing(Writer(keys)) as writer:
        assert writer.write(data) == len(data)
    port.settle()


def press(port: Port) -> str | None:
    """The next key that is pressed, and let go."""
    down = port.interrupt(KEYS, 8)
    if not down.over:
        port.device.cancel(down)
        return None
    up = port.interrupt(KEYS, 8)
    assert (len(got(down)), got(up)) == (8, NONE)
    modifiers, zero, code, *others = got(down)
    assert (zero, others) == (0, [0] * 5)
    return LETTERS[modifiers, code]


def typed(port: Port) -> str:
    """All that is typed now."""
    return "".join(iter(lambda: press(port) or "", ""))


def test_a_key_is_pressed_in_one_report_and_let_go_in_the_next(port: Port, keys: Path) -> None:
    reports = [port.interrupt(KEYS, 8) for _ in range(5)]
    say(port, keys, "aA\n")
    assert [got(report).hex() for report in reports[:4]] == [
        "0000040000000000", "0000000000000000", "0200040000000000", "0000000000000000",
    ]  # fmt: skip
    assert got(reports[4]).hex() == "0000280000000000", "and the line ends with Enter"
    assert got(port.interrupt(KEYS, 64, 3)).hex() == "0000000000000000", "a report is never more"
    assert not port.interrupt(KEYS, 8).over


PRINTED = {  # HID Usage Tables, page 0x07
    "az": "04 1d", "AZ": "204 21d", "1234567890": "1e 1f 20 21 22 23 24 25 26 27",
    "!@#$%^&*()": "21e 21f 220 221 222 223 224 225 226 227", "\t ": "2b 2c", "-=": "2d 2e", "_+": "22d 22e",
    "[]\\": "2f 30 31", "{}|": "22f 230 231", ";'`": "33 34 35", ':"~': "233 234 235", ",./": "36 37 38",
    "<>?": "236 237 238",
}  # fmt: skip


@pytest.mark.parametrize("line", PRINTED)
def test_every_character_has_its_key(port: Port, keys: Path, line: str) -> None:
    reports = [port.interrupt(KEYS, 8) for _ in range(2 * len(line) + 2)]
    say(port, keys, line + "\n")
    pressed = [got(report) for report in reports[::2]]
    assert [report[0] << 8 | report[2] for report in pressed] == [*(int(n, 16) for n in PRINTED[line].split()), 0x28]
    assert all(got(report) == NONE for report in reports[1::2])


def test_lines_are_typed_in_their_order(port: Port, keys: Path) -> None:
    say(port, keys, "Hello, world!\n\n")
    say(port, keys, "one\ntwo\n")
    assert typed(port) == "Hello, world!\n\none\ntwo\n"
    say(port, keys, "three\n")
    assert typed(port) == "three\n"


def test_all_that_is_printable_in_ascii_is_typed(port: Port, keys: Path) -> None:
    line = "".join(map(chr, range(0x20, 0x7F))) + "\n"
    say(port, keys, line)
    assert typed(port) == line
    assert port.said == []


def test_what_is_no_whole_line_is_typed_as_well(port: Port, keys: Path) -> None:
    say(port, keys, "hal")
    assert typed(port) == "hal"
    say(port, keys, "f\n")
    assert typed(port) == "f\n"


def test_what_has_no_key_is_said_and_the_rest_is_typed(port: Port, keys: Path) -> None:
    say(port, keys, "stra\N{LATIN SMALL LETTER SHARP S}e \x07\n".encode() + b"\xff!\n")
    assert typed(port) == "strae \n!\n"
    assert [line.rpartition(" ")[2] for line in port.said] == ["'ß'", r"'\x07'", "'\N{REPLACEMENT CHARACTER}'"]


def test_a_character_comes_in_two_parts(port: Port, keys: Path) -> None:
    say(port, keys, b"x\xc3")
    say(port, keys, b"\xa4y\n")
    assert typed(port) == "xy\n"
    assert len(port.said) == 1


def test_a_character_lies_across_the_end_of_what_is_read_at_once(port: Port, keys: Path) -> None:
    say(port, keys, b"x" * 4095 + b"\xc3\xa4" + b"y" * 4095)
    assert typed(port) == "x" * 4095 + "y" * 4095
    assert port.said == ["there is no key for 'ä'"]


def test_two_writers(port: Port, keys: Path) -> None:
    with closing(Writer(keys)) as one, closing(Writer(keys)) as two:
        for number in range(20):
            one.write(f"one {number}\n".encode())
            two.write(f"two {number}\n".encode())
            if number % 3 == 0:
                port.settle()
        port.settle()
    assert typed(port) == "".join(f"one {number}\ntwo {number}\n" for number in range(20))


def test_writers_come_and_go(port: Port, keys: Path) -> None:
    report = port.interrupt(KEYS, 8)
    for _ in range(3):
        Writer(keys).close()
        port.settle()
    assert not report.over
    say(port, keys, "a\n")
    assert got(report)[2] == 0x04
    assert (port.gone, port.said) == ([], [])


LONG = {
    "lines": "".join(f"line {number} of a long text, \t#{number % 7}\n" for number in range(2400)),
    "one line": " ".join(map(str, range(14_000))) + "\n",
    "no line": " ".join(map(str, range(14_000))),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_text_makes_its_writer_wait_and_nothing_is_lost(port: Port, keys: Path, name: str) -> None:
    whole = LONG[name]
    assert len(whole) > 1 << 16
    with closing(Writer(keys)) as writer:
        fcntl.fcntl(writer.fd, fcntl.F_SETPIPE_SZ, 4096)
        left = whole.encode()
        while done := writer.write(left):
            left = left[done:]
            port.settle()
        assert left, "whoever writes is made to wait"
        found = ""
        while left:
            letter = press(port)
            assert letter is not None
            found += letter
            left = left[writer.write(left) :]
            port.settle()
    while more := typed(port):
        found += more
        port.settle()
    assert found == whole


def test_nobody_listens_and_the_writer_waits(port: Port, keys: Path) -> None:
    lines, done = b"to nobody\n" * LIMIT, 0
    with closing(Writer(keys)) as writer:
        while more := writer.write(lines[done:]):
            done += more
            port.settle()
    assert done < LIMIT


def test_a_reader_does_not_make_the_keyboard_keep_more_than_it_has_room_for(port: Port, keys: Path) -> None:
    room, once = 1 << 16, 2 * 4096  # reports that may wait, and those of what is read at once
    written, given, kept = 0, 0, []
    with closing(Writer(keys)) as writer:
        while more := writer.write(b"x" * 4096):
            written += more
            port.settle()
        for _ in range(1000):
            given += sum(port.interrupt(KEYS, 8).over for _ in range(20))
            port.settle()
            written += writer.write(b"x" * 4096)
            port.settle()
            left = struct.unpack("i", fcntl.ioctl(writer.fd, termios.FIONREAD, bytes(4)))[0]
            kept.append(2 * (written - left) - given)
    assert given == 20_000
    assert max(kept) < room + once
    assert min(kept) >= room, "and it reads on"


def test_a_fifo_that_somebody_else_has_read_does_not_unplug_the_keyboard(port: Port, board: Keyboard) -> None:
    other = port.plug(Keyboard, board.argument)
    for word in ("one", "two"):
        say(port, Path(board.argument), word)
    assert (port.gone, port.said) == ([], [])
    found = []
    for port.device in (board, other):
        found.append(typed(port))
    assert "".join(found) in ("onetwo", "twoone")


def test_what_is_typed_while_nobody_is_configured_waits(port: Port, keys: Path) -> None:
    port.device.reset()
    say(port, keys, "early\n")
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    assert typed(port) == "early\n"


def test_a_report_that_is_taken_back_takes_no_key_with_it(port: Port, keys: Path) -> None:
    reports = [port.interrupt(KEYS, 8) for _ in range(3)]
    for report in reports:
        port.device.cancel(report)
    say(port, keys, "abc\n")
    assert typed(port) == "abc\n"


def hid_fields(report: bytes) -> list[tuple[str, int, int, int, int]]:
    """What reports consist of (HID 1.11, 6.2.2): input or output, flags, usage page, bits of a field, how many."""
    page = size = count = 0
    found = []
    while report:
        width = (0, 1, 2, 4)[report[0] & 3]
        tag, value = report[0] & 0xFC, int.from_bytes(report[1 : 1 + width], "little")
        page = value if tag == 0x04 else page
        size, count = value if tag == 0x74 else size, value if tag == 0x94 else count
        if tag in (0x80, 0x90):
            found.append(("input" if tag == 0x80 else "output", value, page, size, count))
        report = report[1 + width :]
    return found


@pytest.mark.usefixtures("board")
def test_report_descriptor_says_what_reports_are_like(port: Port) -> None:
    report = port.ask(TO_INTERFACE, Ask.get_descriptor, Kind.report << 8)
    assert report[:6] == bytes.fromhex("05 01 09 06 a1 01"), "a keyboard"
    assert report[-1] == 0xC0
    assert sorted(hid_fields(report)) == [
        ("input", 0, 7, 8, 6),  # keys
        ("input", 1, 7, 8, 1),  # nothing
        ("input", 2, 7, 1, 8),  # modifiers
        ("output", 1, 8, 3, 1),
        ("output", 2, 8, 1, 5),  # lights
    ]
    hid = port.ask(TO_INTERFACE, Ask.get_descriptor, Kind.hid << 8)
    assert hid == bytes.fromhex("09 21 11 01 00 01 22") + len(report).to_bytes(2, "little")
    assert port.descriptor(Kind.configuration)[18:27] == hid, "behind its interface"


def test_a_keyboard_is_one_of_the_boot_protocol(board: Keyboard) -> None:
    (one,) = board.configuration.interfaces
    assert (one.klass, one.subclass, one.protocol) == (3, 1, 1)


def test_requests_of_the_class_of_keyboards(port: Port, board: Keyboard) -> None:
    assert port.ask(OF_CLASS, keyboard.GET_PROTOCOL, 0, 0, 1) == b"\1"
    port.tell(OF_CLASS, keyboard.SET_PROTOCOL, 0)
    assert port.ask(OF_CLASS, keyboard.GET_PROTOCOL, 0, 0, 1) == b"\0"
    port.tell(OF_CLASS, keyboard.SET_IDLE, 0x7D00)
    assert port.ask(OF_CLASS, keyboard.GET_IDLE, 0, 0, 1) == b"\x7d"
    assert port.ask(OF_CLASS, keyboard.GET_REPORT, 0x0100, 0, 8) == NONE
    port.tell(OF_CLASS, keyboard.SET_REPORT, 0x0200, 0, b"\x02")
    assert board.lights == 2
    for kind in (OF_VENDOR, OF_CLASS & ~TO_INTERFACE):
        assert port.control(kind, keyboard.GET_PROTOCOL, 0, 0, 1).status is Status.stall


def test_a_keyboard_is_slow(port: Port, board: Keyboard) -> None:
    assert (board.speed, port.descriptor(Kind.device)[7]) == (Speed.low, 8)


def test_a_reset_takes_back_what_the_host_has_said_of_its_protocol(port: Port, board: Keyboard) -> None:
    port.tell(OF_CLASS, keyboard.SET_PROTOCOL, 0)
    port.tell(OF_CLASS, keyboard.SET_IDLE, 0x7D00)
    board.reset()
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    assert port.ask(OF_CLASS, keyboard.GET_PROTOCOL, 0, 0, 1) == b"\1"
    assert port.ask(OF_CLASS, keyboard.GET_IDLE, 0, 0, 1) == b"\0"


def test_a_keyboard_of_what_is_no_fifo_is_none(port: Port, tmp_path: Path) -> None:
    before = descriptors()
    (tmp_path / "file").write_bytes(b"text\n")
    for name, why in (("file", "not a FIFO"), ("nothing", "No such file")):
        with pytest.raises(OSError, match=why):
            port.plug(Keyboard, str(tmp_path / name))
    assert descriptors() == before


# Serial ports.

TEXT = bytes(range(256)) * 3
CODING = bytes.fromhex("00 c2 01 00 00 00 08")
"""115200 baud, 8N1."""


class Line:
    """A program at the other end of a serial port."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.read = bytearray()

    def has(self, data: bytes) -> bool:
        """Read what there is; whether that is all of this so far, and no other."""
        with suppress(BlockingIOError):
            while part := os.read(self.fd, 1 << 16):
                self.read += part
        assert data.startswith(self.read)
        return len(self.read) == len(data)

    def write(self, data: bytes) -> int:
        """As much as there is room for."""
        done = 0
        with suppress(BlockingIOError):
            while done < len(data):
                done += os.write(self.fd, data[done:])
        return done

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def ttyacm(port: Port, tmp_path: Path) -> Serial:
    """A serial port whose link is `line`."""
    return port.plug(Serial, str(tmp_path / "line"))


@pytest.fixture
def line(ttyacm: Serial) -> Iterator[Line]:
    with closing(Line(Path(ttyacm.argument))) as line:
        yield line


def come(port: Port, size: int, piece: int = 64) -> bytes:
    """So many bytes out of a serial port."""
    found = b""
    while len(found) < size:
        transfer = port.bulk(serial.IN, piece, 7)
        port.wait(transfer)
        assert transfer.status is Status.ok
        assert transfer.actual, "it waits where there is nothing"
        found += got(transfer)
    return found


def test_every_byte_that_the_guest_writes_is_read(port: Port, line: Line) -> None:
    transfer = port.bulk(serial.OUT, TEXT, 100, 1)
    assert (transfer.status, transfer.actual) == (Status.ok, len(TEXT))
    port.until(lambda: line.has(TEXT))


def test_every_byte_that_is_written_the_guest_reads(port: Port, line: Line) -> None:
    assert line.write(TEXT) == len(TEXT)
    assert come(port, len(TEXT)) == TEXT


def test_what_the_guest_asks_for_comes_when_it_is_written(port: Port, line: Line) -> None:
    first, second = port.bulk(serial.IN, 64), port.bulk(serial.IN, 64)
    port.settle()
    assert not first.over
    line.write(b"one")
    port.wait(first)
    port.settle()
    assert (got(first), second.over) == (b"one", False)
    line.write(b"two")
    port.wait(second)
    assert got(second) == b"two"


def test_a_read_that_is_taken_back_takes_nothing_with_it(port: Port, line: Line) -> None:
    transfer = port.bulk(serial.IN, 64)
    port.device.cancel(transfer)
    line.write(b"late")
    assert come(port, 4) == b"late"


@pytest.mark.parametrize("turns", [False, True])
def test_what_comes_behind_a_read_that_was_taken_back_is_read_in_pieces(port: Port, line: Line, turns: bool) -> None:
    found = expected = b""
    for number in range(50):
        port.device.cancel(port.bulk(serial.IN, 64))
        for part in (b"%d first;" % number, b"%d second;" % number):
            line.write(part)
            expected += part
            if turns:
                port.settle()
            found += come(port, 1, 3)
            port.settle()
        found += come(port, len(expected) - len(found))
    assert found == expected


def test_both_directions_at_once(port: Port, line: Line) -> None:
    reads = [port.bulk(serial.IN, 512) for _ in range(4)]
    writes = [port.bulk(serial.OUT, TEXT[:512]) for _ in range(4)]
    line.write(TEXT[512:])
    port.wait(reads[0])
    port.until(lambda: line.has(TEXT[:512] * 4))
    assert TEXT[512:].startswith(got(reads[0]))
    assert all(transfer.status is Status.ok for transfer in writes)


@pytest.mark.usefixtures("ttyacm")
def test_what_is_written_before_anybody_reads_waits_for_them(port: Port, tmp_path: Path) -> None:
    assert port.bulk(serial.OUT, b"login: ").over
    with closing(Line(tmp_path / "line")) as line:
        port.until(lambda: line.has(b"login: "))


@pytest.mark.usefixtures("ttyacm")
def test_readers_come_and_go(port: Port, tmp_path: Path) -> None:
    transfer = port.bulk(serial.IN, 64)
    for said in (b"one", b"two"):
        with closing(Line(tmp_path / "line")) as line:
            assert port.bulk(serial.OUT, said).status is Status.ok
            port.until(lambda line=line, said=said: line.has(said))  # type: ignore[misc]
        port.settle()
    assert not transfer.over
    assert not port.gone
    with closing(Line(tmp_path / "line")) as line:
        line.write(b"three")
        port.wait(transfer)
    assert got(transfer) == b"three"


def lots(seed: int, size: int = LIMIT) -> bytes:
    """Bytes of which none can be lost or doubled without it being seen."""
    return b"".join(f"{seed}.{number};".encode() for number in range(size // 6))[:size]


def test_a_reader_that_does_not_read_makes_the_guest_wait(port: Port, line: Line) -> None:
    first, second, last = lots(1), lots(2, 1000), b"the end"
    transfers = [port.bulk(serial.OUT, data, 4096, 4096) for data in (first, second, last)]
    port.settle()
    assert not any(transfer.over for transfer in transfers)
    port.until(lambda: line.has(first + second + last))
    assert [(one.status, one.actual) for one in transfers] == [
        (Status.ok, len(data)) for data in (first, second, last)
    ]  # fmt: skip
    assert port.ended[-3:] == transfers
    port.settle()
    assert line.has(first + second + last), "and nothing behind it"


def test_a_guest_that_does_not_read_makes_the_writer_wait(port: Port, line: Line) -> None:
    transfer = port.bulk(serial.IN, 64)
    line.write(b"first")
    port.wait(transfer)
    whole, done = lots(3), 0
    while more := line.write(whole[done:]):
        done += more
        port.settle()
    assert done < len(whole)
    found = b""
    while len(found) < len(whole):
        found += come(port, 1, 4096)
        done += line.write(whole[done:])
    assert found == whole


def test_a_write_that_is_taken_back_when_half_is_written_does_not_harm_the_next(port: Port, line: Line) -> None:
    whole, last = lots(4), b"<the end>"
    half, next_one = port.bulk(serial.OUT, whole), port.bulk(serial.OUT, last)
    port.settle()
    assert not half.over
    port.device.cancel(half)
    assert half.status is Status.shutdown
    port.until(lambda: _read(line).endswith(last))
    assert next_one.status is Status.ok
    written = bytes(line.read)[: -len(last)]
    assert 0 < len(written) < len(whole)
    assert whole.startswith(written)


def test_a_write_that_is_taken_back_says_how_much_of_it_went_out(port: Port, line: Line) -> None:
    whole, last = lots(6), b"<the end>"
    half, behind, next_one = (port.bulk(serial.OUT, data) for data in (whole, whole, last))
    port.until(lambda: len(_read(line)) > 10_000)
    port.settle()
    for transfer in (behind, half):
        port.device.cancel(transfer)
    assert (half.status, behind.status, behind.actual) == (Status.shutdown, Status.shutdown, 0)
    port.until(lambda: _read(line).endswith(last))
    assert next_one.status is Status.ok
    assert 10_000 < half.actual < len(whole)
    assert bytes(line.read) == whole[: half.actual] + last


def _read(line: Line) -> bytearray:
    with suppress(BlockingIOError):
        line.read += os.read(line.fd, 1 << 16)
    return line.read


def test_a_reset_when_half_is_written_does_not_harm_the_next(port: Port, line: Line) -> None:
    whole, last = lots(5), b"<the end>"
    half = port.bulk(serial.OUT, whole)
    port.device.reset()
    assert half.status is Status.shutdown
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    next_one = port.bulk(serial.OUT, last)
    port.until(lambda: _read(line).endswith(last))
    assert next_one.status is Status.ok
    assert whole.startswith(bytes(line.read)[: -len(last)])


@pytest.mark.usefixtures("line")
def test_a_write_of_nothing_is_one(port: Port) -> None:
    assert port.bulk(serial.OUT, b"").status is Status.ok


@pytest.mark.usefixtures("ttyacm")
def test_line_coding_is_what_the_guest_says(port: Port) -> None:
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 7) == CODING
    port.tell(OF_CLASS, serial.SET_LINE_CODING, 0, 0, bytes.fromhex("80 25 00 00 02 01 07"))
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 7) == bytes.fromhex("80 25 00 00 02 01 07")
    assert port.control(OF_CLASS, serial.SET_LINE_CODING, 0, 0, b"short").status is Status.stall
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 7) == bytes.fromhex("80 25 00 00 02 01 07")
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 4) == bytes.fromhex("80 25 00 00")


def test_control_lines_and_a_break(port: Port, ttyacm: Serial) -> None:
    port.tell(OF_CLASS, serial.SET_CONTROL_LINE_STATE, 3)
    assert ttyacm.lines == 3
    port.tell(OF_CLASS, serial.SEND_BREAK, 0xFFFF)
    assert port.control(OF_VENDOR, serial.SET_CONTROL_LINE_STATE, 0).status is Status.stall


@pytest.mark.usefixtures("ttyacm")
def test_a_serial_port_has_no_news(port: Port) -> None:
    transfer = port.interrupt(serial.NOTES, 8)
    port.settle()
    assert not transfer.over


def test_functions_of_a_serial_port_byte_by_byte(port: Port, ttyacm: Serial) -> None:
    control, data = ttyacm.interfaces
    assert (control.klass, control.subclass, control.protocol, data.klass) == (2, 2, 1, 10)
    said = "05 24 00 10 01  05 24 01 00 01  04 24 02 06  05 24 06 00 01"
    assert port.descriptor(Kind.configuration)[18:37] == bytes.fromhex(said)
    assert port.descriptor(Kind.device)[4] == 2


@pytest.mark.usefixtures("ttyacm")
def test_the_link_is_there_as_long_as_the_port(port: Port, tmp_path: Path) -> None:
    link = tmp_path / "line"
    assert link.readlink().parent == Path("/dev/pts")
    port.unplug()
    assert not link.is_symlink()


def test_whoever_has_the_line_when_it_is_unplugged_is_told(port: Port, line: Line) -> None:
    port.unplug()
    with pytest.raises(OSError, match="Input/output error"):
        os.write(line.fd, b"anybody?")


def test_what_a_serial_port_of_before_has_left_is_replaced(port: Port, tmp_path: Path) -> None:
    link = tmp_path / "line"
    link.symlink_to("/dev/pts/99999")
    port.plug(Serial, str(link))
    with closing(Line(link)) as line:
        port.bulk(serial.OUT, b"here")
        port.until(lambda: line.has(b"here"))


def test_what_is_no_link_of_ours_stays(port: Port, tmp_path: Path) -> None:
    before = descriptors()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            port.plug(Serial, str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        port.plug(Serial, str(tmp_path / "no" / "directory"))
    with pytest.raises(OSError, match="needs the path of a link"):
        port.plug(Serial, "")
    assert (tmp_path / "link").read_text() == "mine"
    assert descriptors() == before


# Loopback.


@pytest.mark.usefixtures("back")
@pytest.mark.parametrize(("kind", "number"), [(PipeType.bulk, BULK), (PipeType.interrupt, INTERRUPT)])
def test_what_is_sent_comes_back_in_its_order(port: Port, kind: PipeType, number: int) -> None:
    early = port.submit(kind, number, 512)
    parts = [b"", b"a", TEXT[:511], TEXT[:512], b"b"]
    for part in (b"first", *parts):
        sent = port.submit(kind, number, part, len(part) // 2)
        assert (sent.status, sent.actual) == (Status.ok, len(part))
    port.settle()
    assert got(early) == b"first"
    later = [port.submit(kind, number, 512, 100) for _ in parts]
    assert [got(transfer) for transfer in later] == parts
    assert not port.submit(kind, number, 512).over


@pytest.mark.usefixtures("back")
def test_what_there_is_no_room_for_comes_with_the_next(port: Port) -> None:
    port.bulk(BULK, TEXT[:500])
    port.bulk(BULK, b"next")
    sizes = (200, 200, 200, 200)
    assert [got(port.bulk(BULK, size)) for size in sizes] == [TEXT[:200], TEXT[200:400], TEXT[400:500], b"next"]


@pytest.mark.usefixtures("back")
def test_endpoints_have_nothing_to_do_with_each_other(port: Port) -> None:
    read_one, read_two = port.bulk(BULK, 8), port.interrupt(INTERRUPT, 8)
    port.interrupt(INTERRUPT, b"two")
    port.settle()
    assert (read_one.over, got(read_two)) == (False, b"two")
    port.bulk(BULK, b"one")
    port.settle()
    assert got(read_one) == b"one"


@pytest.mark.usefixtures("back")
def test_much_that_nobody_reads_makes_the_host_wait(port: Port) -> None:
    sent = [port.bulk(BULK, bytes((number,))) for number in range(100)]
    port.settle()
    assert [transfer.over for transfer in sent] == [True] * 64 + [False] * 36
    found = []
    for _ in range(100):
        found.append(got(port.bulk(BULK, 8)))
        port.settle()
    assert found == [bytes((number,)) for number in range(100)]
    assert all(transfer.status is Status.ok for transfer in sent)


def test_a_reset_forgets_what_was_sent(port: Port, back: Loopback) -> None:
    port.bulk(BULK, b"forgotten")
    back.reset()
    use_ends(port, back)
    transfer = port.bulk(BULK, 16)
    port.settle()
    assert not transfer.over


@pytest.mark.usefixtures("back")
def test_what_is_on_its_way_when_it_is_unplugged_comes_nowhere(port: Port) -> None:
    transfer = port.bulk(BULK, 8)
    port.bulk(BULK, b"abc")
    port.unplug()
    port.settle()
    assert (transfer.status, transfer.actual) == (Status.nodev, 0)


def packets(transfer: Transfer) -> list[tuple[Status, int]]:
    return [(Status(packet.status), packet.actual) for packet in transfer.packets]


@pytest.mark.usefixtures("back")
def test_isochronous_packets_come_back_each_as_it_was(port: Port) -> None:
    sent = port.isochronous(ISOC, b"abcdefghij", (0, 3), (3, 0), (5, 5), cuts=(2, 5))
    assert (sent.status, sent.actual, packets(sent)) == (Status.ok, 8, [(Status.ok, n) for n in (3, 0, 5)])
    back_again = port.isochronous(ISOC, 24, (0, 8), (8, 8), (16, 8), cuts=(1, 20))
    assert (back_again.status, back_again.actual) == (Status.ok, 8)
    assert packets(back_again) == [(Status.ok, 3), (Status.ok, 0), (Status.ok, 5)]
    data = back_again.data()
    assert (data[:3], data[16:21]) == (b"abc", b"fghij")


@pytest.mark.usefixtures("back")
def test_isochronous_packets_never_wait(port: Port) -> None:
    transfer = port.isochronous(ISOC, 16, (0, 8), (8, 8))
    assert (transfer.status, transfer.actual) == (Status.ok, 0)
    assert packets(transfer) == [(Status.ok, 0)] * 2


@pytest.mark.usefixtures("back")
def test_lost_and_long_packets_are_errors_of_their_own(port: Port) -> None:
    port.isochronous(ISOC, b"one.lostlongtwo.", (0, 4), (4, 4), (8, 4), (12, 4))
    transfer = port.isochronous(ISOC, 32, (0, 8), (8, 8), (16, 8), (24, 8), cuts=(9,))
    assert (transfer.status, transfer.actual) == (Status.ok, 8)
    assert packets(transfer) == [(Status.ok, 4), (Status.ioerror, 0), (Status.babble, 0), (Status.ok, 4)]
    assert transfer.data() == b"one.".ljust(24, b"\0") + b"two.".ljust(8, b"\0")


@pytest.mark.usefixtures("back")
def test_isochronous_packets_that_are_too_many_are_lost(port: Port) -> None:
    places = [(at, 1) for at in range(70)]
    port.isochronous(ISOC, bytes(range(70)), *places)
    assert got(port.isochronous(ISOC, 70, *places)) == bytes(range(64))


def test_isochronous_transfers_leave_alone_what_is_between_their_packets(port: Port, back: Loopback) -> None:
    port.isochronous(ISOC, b"abcd", (0, 2), (2, 2))
    transfer = port.make(PipeType.isoc, ISOC, 12, (5,), packets=((2, 4), (8, 4)))
    transfer.fill(b"-" * 12)
    back.submit(transfer)
    assert transfer.data() == b"--ab----cd--"


@pytest.mark.usefixtures("back")
def test_bytes_are_kept_and_given_back(port: Port) -> None:
    assert port.ask(OF_VENDOR, loopback.FETCH) == b""
    port.tell(OF_VENDOR, loopback.STORE, data=TEXT)
    assert port.ask(OF_VENDOR, loopback.FETCH, size=len(TEXT)) == TEXT
    assert port.ask(OF_VENDOR, loopback.FETCH, size=5) == TEXT[:5]
    sent = port.control(OF_VENDOR, loopback.STORE, 0, 0, b"other", 2, 1)
    assert (sent.status, sent.actual) == (Status.ok, 5)
    assert port.ask(OF_VENDOR, loopback.FETCH) == b"other"


@pytest.mark.usefixtures("back")
def test_the_vendors_halt_is_one_of_both_bulk_endpoints(port: Port) -> None:
    reads, other = [port.bulk(BULK, 8) for _ in range(2)], port.interrupt(INTERRUPT, 8)
    port.tell(OF_VENDOR, loopback.HALT)
    assert [transfer.status for transfer in reads] == [Status.stall] * 2
    assert not other.over
    assert [port.halted(address) for address in (0x81, 0x01, 0x82, 0x02)] == [True, True, False, False]
    assert port.bulk(BULK, b"abc").status is Status.stall
    port.clear(0x01)
    assert port.bulk(BULK, b"abc").status is Status.ok
    port.settle()
    assert port.bulk(BULK, 8).status is Status.stall
    port.clear(0x81)
    assert got(port.bulk(BULK, 8)) == b"abc"
