"""Configurations: byte by byte, there and back, and of any bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xenusb.descriptors import Configuration, Endpoint, Interface, Kind, split

from tests.usb.configurations import GOOD, GOOD_HEX, U8, U16, bulk, configuration, endpoint, interface, parse
from xenfs.abi.usbif import PipeType

# Configurations.


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Endpoint(1, True, PipeType.bulk, 512), "07058102000200"),
        (Endpoint(2, False, PipeType.bulk, 64), "07050202400000"),
        (Endpoint(15, True, PipeType.interrupt, 8, 10), "07058f0308000a"),
        (Endpoint(3, False, PipeType.isoc, 0x1400, 1), "07050301001401"),
        (Endpoint(4, False, PipeType.control, 8), "07050400080000"),
        (Endpoint(1, True, PipeType.bulk, 512, extra=b"\x03\x30\x05"), "07058102000200033005"),
        (Endpoint(1, True, PipeType.isoc, 192, 1, usage=0x24), "07058125c00001"),
        (Endpoint(2, False, PipeType.interrupt, 8, 1, usage=0xFC), "070502ff080001"),
        (Endpoint(1, False, PipeType.isoc, 192, 1, usage=0x04, audio=b"\x00\x82"), "09050105c000010082"),
        (Endpoint(1, False, PipeType.isoc, 192, 1, b"\x03\x25\x01", audio=b"\x05"), "08050101c0000105032501"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_endpoint_byte_by_byte(value: Endpoint, data: str) -> None:
    assert value.emit().hex() == data
    (found,) = parse(configuration(interface(ends=1), data)).interfaces
    assert found.endpoints == (value,)


def test_the_longest_endpoint() -> None:
    value = Endpoint(3, True, PipeType.bulk, 64, audio=b"\xaa" * 248)
    assert value.emit().hex() == "ff058302400000" + "aa" * 248
    (found,) = parse(configuration(interface(ends=1), value.emit().hex())).interfaces
    assert found.endpoints == (value,)


@pytest.mark.parametrize(
    ("attributes", "kind", "usage"),
    [
        (0xFC, PipeType.control, 0xFC),
        (0x0D, PipeType.isoc, 0x0C),
        (0x25, PipeType.isoc, 0x24),
        (0x42, PipeType.bulk, 0x40),
        (0x13, PipeType.interrupt, 0x10),
        (0x03, PipeType.interrupt, 0),
    ],
)
def test_type_of_an_endpoint_is_two_bits_and_its_usage_the_others(attributes: int, kind: PipeType, usage: int) -> None:
    (found,) = parse(configuration(interface(ends=1), f"070581{attributes:02x}400001")).interfaces
    assert [(end.type, end.usage, end.attributes) for end in found.endpoints] == [(kind, usage, attributes)]


def test_packet_of_an_endpoint_is_without_how_many_a_microframe_has() -> None:
    assert Endpoint(1, True, PipeType.isoc, 0x1400).packet == 1024
    assert Endpoint(1, True, PipeType.isoc, 0x0C00).packet == 1024
    assert Endpoint(1, True, PipeType.bulk, 512).packet == 512


def test_whole_configuration_byte_by_byte() -> None:
    ends = (Endpoint(1, True, PipeType.interrupt, 8, 10, b"\x02\x30"), Endpoint(2, False, PipeType.bulk, 64))
    value = Configuration(
        (
            Interface(0, 3, 1, 2, ends, extra=bytes.fromhex("092111010001223f00"), name=4),
            Interface(1, 0xFF, 0xFE, 0xFD),
            Interface(1, 0xFF, 0xFE, 0xFD, (bulk(0x83),), alternate=1),
        ),
        value=2,
        attributes=0xA0,
        power=500,
        extra=bytes.fromhex("080b000203000000"),
        name=5,
    )
    data = (
        "09024c00020205a0fa",
        "080b000203000000",  # an interface association
        "090400000203010204",
        "092111010001223f00",  # HID
        "0705810308000a" + "0230",
        "07050202400000",
        "0904010000fffefd00",
        "0904010101fffefd00",
        "07058302400000",
    )
    assert value.emit() == bytes.fromhex("".join(data))
    assert Configuration.parse(bytes.fromhex("".join(data))) == value
    assert value.interface(1, 1) == value.interfaces[2]
    assert value.interface(1) == value.interfaces[1]
    assert value.interface(2) is None
    assert value.interface(0, 1) is None


def test_settings_of_one_interface_are_counted_once() -> None:
    assert Configuration((Interface(0, 255), Interface(0, 255, alternate=1))).emit()[4] == 1
    assert Configuration(()).emit().hex() == "090209000001008032"


def test_power_is_told_in_steps_of_two() -> None:
    assert Configuration((), power=500).emit()[8] == 250
    assert Configuration((), power=99).emit()[8] == 49
    assert parse(Configuration((), power=99).emit()).power == 98


def test_class_descriptors_stay_where_they_stood() -> None:
    found = parse(
        configuration("03aa01", interface(0, 1), "03bb01", "02bc", endpoint(0x81), "03cc01", interface(1), "03dd01")
    )
    assert (found.extra.hex(), found.odd) == ("03aa01", ())
    first, second = found.interfaces
    assert (first.extra.hex(), second.extra.hex()) == ("03bb0102bc", "03dd01")
    assert [end.extra.hex() for end in first.endpoints] == ["03cc01"]


def test_one_number_both_ways_is_two_endpoints() -> None:
    found = parse(configuration(interface(ends=2), endpoint(0x01), endpoint(0x81)))
    assert found == Configuration((Interface(0, 255, endpoints=(bulk(0x01), bulk(0x81))),))


def test_a_head_that_is_longer_than_it_was_is_left_out_whole() -> None:
    assert parse(configuration("0705", GOOD_HEX, length=11, count=1)) == Configuration((GOOD,))
    assert parse(configuration(GOOD_HEX, length=9 + len(GOOD_HEX) // 2, count=0)) == Configuration(())


@pytest.mark.parametrize(
    "data",
    ["", "09", "0902090001010080", "090409000101008032", "120109000101008032"],
    ids=["nothing", "a byte", "eight bytes", "an interface", "a device"],
)
def test_not_even_the_head_of_a_configuration(data: str) -> None:
    assert Configuration.parse(bytes.fromhex(data)) is None


# Anything.

CLASS_DESCRIPTORS = st.lists(st.tuples(st.integers(6, 255), st.binary(max_size=6)), max_size=3).map(
    lambda ones: b"".join(bytes((2 + len(rest), kind)) + rest for kind, rest in ones)
)
USAGES, AUDIO = st.integers(0, 63).map(lambda bits: bits << 2), st.binary(max_size=4)
ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        st.integers(1, 15),
        st.booleans(),
        st.sampled_from(PipeType),
        U16,
        U8,
        CLASS_DESCRIPTORS,
        USAGES,
        AUDIO,
    ),
    max_size=4,
    unique_by=lambda end: end.address,
).map(tuple)


def apart(interfaces: Sequence[Interface]) -> tuple[Interface, ...]:
    """The same, with every address only in the settings of the interface that has it first."""
    owners: dict[int, int] = {}
    return tuple(
        replace(
            one,
            endpoints=tuple(end for end in one.endpoints if owners.setdefault(end.address, one.number) == one.number),
        )
        for one in interfaces
    )


INTERFACES = st.lists(
    st.builds(Interface, st.integers(0, 2) | U8, U8, U8, U8, ENDPOINTS, U8, CLASS_DESCRIPTORS, U8),
    max_size=4,
    unique_by=lambda one: (one.number, one.alternate),
).map(apart)
PIECE = st.one_of(
    st.binary(max_size=9),
    st.tuples(U8, st.sampled_from([2, 4, 5, 0x24]), st.binary(max_size=9)).map(lambda one: bytes(one[:2]) + one[2]),
    st.tuples(st.sampled_from([2, 4, 5, 0x24]), st.binary(max_size=9)).map(
        lambda one: bytes((2 + len(one[1]), one[0])) + one[1]
    ),
    st.binary(min_size=7, max_size=7).map(lambda rest: b"\x09\x04" + rest),
    st.builds(interface, st.integers(0, 2), st.integers(0, 3), st.integers(0, 1)).map(bytes.fromhex),
    st.builds(endpoint, st.sampled_from([0x00, 0x01, 0x81, 0x02, 0x8F, 0x92, 0xFF])).map(bytes.fromhex),
)


@given(
    st.builds(
        Configuration, INTERFACES, U8, U8, st.integers(0, 255).map(lambda steps: 2 * steps), CLASS_DESCRIPTORS, U8
    )
)
def test_configuration_round_trip(value: Configuration) -> None:
    assert Configuration.parse(value.emit()) == value


def sound(found: Configuration) -> None:
    """What a host may rely on, whatever was sent."""
    settings = [(one.number, one.alternate) for one in found.interfaces]
    assert len(settings) == len(set(settings))
    owners: dict[int, int] = {}
    for one in found.interfaces:
        addresses = [end.address for end in one.endpoints]
        assert len(addresses) == len(set(addresses))
        assert all(1 <= end.number <= 15 and not end.usage & 3 for end in one.endpoints)
        assert all(owners.setdefault(address, one.number) == one.number for address in addresses)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_configuration_or_none(data: bytes) -> None:
    found = Configuration.parse(data)
    if found is not None:
        assert (len(data) >= 9, data[1]) == (True, Kind.configuration)
        sound(found)


@given(st.just(9) | U8, U16 | st.none(), U8 | st.none(), st.lists(PIECE, max_size=12))
def test_of_any_descriptors_only_what_makes_sense_is_left(
    length: int, total: int | None, count: int | None, pieces: Sequence[bytes]
) -> None:
    data = configuration(b"".join(pieces).hex(), length=length, total=total, count=count)
    found = parse(data)
    sound(found)
    assert Configuration.parse(found.emit()) == replace(found, odd=()), "it is odd no longer"
    longer = length > 9 or any(one[1] == Kind.interface and len(one) > 9 for one in split(data[9:], []))
    assert found.odd or longer or found.emit() == data, "of what is not odd nothing is lost"
