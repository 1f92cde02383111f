"""What a device says of itself: byte by byte, there and back, and what is made of lies."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xenusb.descriptors import (
    CLASS,
    ENGLISH,
    MOST_STRING,
    STANDARD,
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
    languages,
    split,
    string,
    text,
)

from xenfs.abi.usbif import PipeType

U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)

# Setup packets.

SETUPS = [
    (Setup(0x80, Ask.get_descriptor, Kind.device << 8, 0, 18), "8006000100001200"),
    (Setup(0x00, Ask.set_address, 5), "0005050000000000"),
    (Setup(0x02, Ask.clear_feature, 0, 0x81), "0201000081000000"),
    (Setup(0xA1, 0xFE, 0, 0x0100, 1), "a1fe000000010100"),
    (Setup(0xFF, 0xFF, 0x1234, 0x5678, 0xFFFF), "ffff34127856ffff"),
]


@pytest.mark.parametrize(("setup", "data"), SETUPS, ids=lambda v: v if isinstance(v, str) else "")
def test_setup_byte_by_byte(setup: Setup, data: str) -> None:
    assert setup.emit().hex() == data
    assert Setup.parse(bytes.fromhex(data)) == setup


@given(st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_are_a_setup(data: bytes) -> None:
    setup = Setup.parse(data)
    assert setup.emit() == data
    assert setup.inward is (data[0] >= 0x80)


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_setup_has_eight_bytes(size: int) -> None:
    with pytest.raises(struct.error):
        Setup.parse(bytes(size))


@pytest.mark.parametrize("field", ["request_type", "request", "value", "index", "length"])
def test_setup_that_does_not_fit_is_refused(field: str) -> None:
    for value in (-1, 0x10000):
        with pytest.raises(struct.error):
            replace(Setup(0, 0), **{field: value}).emit()


@pytest.mark.parametrize(
    ("request_type", "inward", "kind", "recipient"),
    [
        (0x00, False, STANDARD, TO_DEVICE),
        (0x81, True, STANDARD, TO_INTERFACE),
        (0x02, False, STANDARD, TO_ENDPOINT),
        (0xA1, True, CLASS, TO_INTERFACE),
        (0x21, False, CLASS, TO_INTERFACE),
        (0xC0, True, VENDOR, TO_DEVICE),
        (0x7F, False, 3, 31),
    ],
)
def test_request_type_bit_by_bit(request_type: int, inward: bool, kind: int, recipient: int) -> None:
    setup = Setup(request_type, 1)
    assert (setup.inward, setup.kind, setup.recipient) == (inward, kind, recipient)


def test_a_standard_request_is_one_of_its_kind_number_and_recipient() -> None:
    assert Setup(0x80, 6).is_standard(Ask.get_descriptor)
    assert Setup(0x01, 11).is_standard(Ask.set_interface, TO_INTERFACE)
    assert not Setup(0x80, 6).is_standard(Ask.get_status), "another request"
    assert not Setup(0x81, 6).is_standard(Ask.get_descriptor), "to an interface"
    assert not Setup(0xA0, 6).is_standard(Ask.get_descriptor), "of a class"


# The device.

DEVICE = DeviceDescriptor(0x1209, 0x5854, 0x0142, 0x0110, 0xEF, 0x02, 0x01, 8, (1, 2, 3), 2)
DEVICE_HEX = "12011001ef02010809125458420101020302"


def test_device_descriptor_byte_by_byte() -> None:
    assert DEVICE.emit().hex() == DEVICE_HEX
    assert DeviceDescriptor.parse(bytes.fromhex(DEVICE_HEX)) == DEVICE
    assert DeviceDescriptor.parse(bytes.fromhex(DEVICE_HEX) + b"tail") == DEVICE
    assert DeviceDescriptor(1, 2).emit().hex() == "120100020000004001000200000100000001"


def test_qualifier_byte_by_byte() -> None:
    assert DEVICE.qualifier().hex() == "0a061001ef0201080200"


@pytest.mark.parametrize(
    "data",
    [
        "",
        "1201",
        DEVICE_HEX[:-2],
        f"00{DEVICE_HEX[2:]}",
        f"11{DEVICE_HEX[2:]}",
        f"13{DEVICE_HEX[2:]}00",
        f"ff{DEVICE_HEX[2:]}",
        f"1202{DEVICE_HEX[4:]}",
    ],
    ids=["nothing", "head", "short", "bLength 0", "bLength 17", "bLength 19", "bLength 255", "a configuration"],
)
def test_what_is_no_device_descriptor(data: str) -> None:
    assert DeviceDescriptor.parse(bytes.fromhex(data)) is None


@given(st.binary(max_size=40) | st.binary(min_size=16, max_size=20).map(lambda rest: b"\x12\x01" + rest))
def test_any_bytes_are_a_device_descriptor_or_none(data: bytes) -> None:
    found = DeviceDescriptor.parse(data)
    assert found is None or found.emit() == data[:18]


@given(
    st.builds(DeviceDescriptor, U16, U16, U16, U16, U8, U8, U8, U8, strings=st.tuples(U8, U8, U8), configurations=U8)
)
def test_device_descriptor_round_trip(value: DeviceDescriptor) -> None:
    assert DeviceDescriptor.parse(value.emit()) == value


# Configurations.


def configuration(*parts: str, length: int = 9, total: int | None = None, count: int | None = None) -> bytes:
    """What a device sends: number 1, bus-powered, 100 mA, and what is given; by itself with the right length, and with
    the right number of interfaces.
    """
    rest = bytes.fromhex("".join(parts))
    total = 9 + len(rest) if total is None else total
    count = len({one[2] for one in split(rest, []) if one[:2] == b"\x09\x04"}) if count is None else count
    return struct.pack("<BBHBBBBB", length, 2, total, count, 1, 0, 0x80, 50) + rest


def interface(number: int = 0, ends: int = 0, alternate: int = 0) -> str:
    """Of the vendor's class."""
    return f"0904{number:02x}{alternate:02x}{ends:02x}ff000000"


def endpoint(address: int, size: int = 64) -> str:
    """A bulk endpoint."""
    return f"0705{address:02x}02{size.to_bytes(2, 'little').hex()}00"


def bulk(address: int, extra: bytes = b"") -> Endpoint:
    return Endpoint(address & 0x0F, address > 0x7F, PipeType.bulk, 64, extra=extra)


def parse(data: bytes) -> Configuration:
    found = Configuration.parse(data)
    assert found is not None
    return found


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


# Lies.

GOOD = Interface(0, 255, endpoints=(bulk(0x81),))
GOOD_HEX = interface(0, 1) + endpoint(0x81)


@pytest.mark.parametrize(
    ("tail", "odd"),
    [
        ("00", "a descriptor says that it has 0 bytes, 1 before the end"),
        ("0005010240000000", "a descriptor says that it has 0 bytes, 8 before the end"),
        ("01", "a descriptor says that it has 1 bytes, 1 before the end"),
        ("02", "a descriptor says that it has 2 bytes, 1 before the end"),
        ("070502024000", "a descriptor says that it has 7 bytes, 6 before the end"),
        ("ff04010000ff000000", "a descriptor says that it has 255 bytes, 9 before the end"),
    ],
)
def test_lengths_that_do_not_add_up_end_the_descriptors(tail: str, odd: str) -> None:
    assert Configuration.parse(configuration(GOOD_HEX, tail)) == Configuration((GOOD,), odd=(odd,))


def test_nothing_behind_a_length_of_0_is_believed() -> None:
    found = parse(configuration(interface(0, 1), "00", endpoint(0x81), interface(1)))
    assert found.interfaces == (Interface(0, 255),)
    assert found.odd == (
        "a descriptor says that it has 0 bytes, 17 before the end",
        "interface 0 says that it has 1 endpoints, and has 0",
    )


@pytest.mark.parametrize("length", [*range(9), 26, 255])
def test_a_head_whose_length_cannot_be_has_nine_bytes(length: int) -> None:
    found = parse(configuration(GOOD_HEX, length=length))
    assert found == Configuration((GOOD,), odd=(f"its head says that it has {length} bytes",))


@pytest.mark.parametrize("count", [0, 1, 3, 255])
def test_a_wrong_number_of_interfaces_is_told(count: int) -> None:
    found = parse(configuration(GOOD_HEX, interface(1), interface(1, alternate=1), count=count))
    assert found == Configuration(
        (GOOD, Interface(1, 255), Interface(1, 255, alternate=1)),
        odd=(f"bNumInterfaces is {count}, and there are 2",),
    )


def test_interfaces_that_are_not_there_are_told() -> None:
    assert parse(configuration(count=1)) == Configuration((), odd=("bNumInterfaces is 1, and there are 0",))


@pytest.mark.parametrize("total", [26, 255, 0xFFFF])
def test_a_total_length_that_is_too_large(total: int) -> None:
    found = parse(configuration(GOOD_HEX, total=total))
    assert found == Configuration((GOOD,), odd=(f"wTotalLength is {total}, and there are 25 bytes",))


@pytest.mark.parametrize("total", range(9))
def test_a_total_length_smaller_than_the_head(total: int) -> None:
    found = parse(configuration(GOOD_HEX, total=total))
    assert found == Configuration(
        (), odd=(f"wTotalLength is {total}, and there are 25 bytes", "bNumInterfaces is 1, and there are 0")
    )


def test_what_the_total_length_leaves_out_does_not_belong_to_it() -> None:
    data = configuration(GOOD_HEX, interface(1), total=25, count=1)
    assert parse(data) == Configuration((GOOD,), odd=("wTotalLength is 25, and there are 34 bytes",))


def test_a_total_length_that_ends_amid_a_descriptor() -> None:
    assert parse(configuration(GOOD_HEX, total=24)) == Configuration(
        (Interface(0, 255),),
        odd=(
            "wTotalLength is 24, and there are 25 bytes",
            "a descriptor says that it has 7 bytes, 6 before the end",
            "interface 0 says that it has 1 endpoints, and has 0",
        ),
    )


@pytest.mark.parametrize(("address", "name"), [(0x00, "0x00"), (0x80, "0x80")])
def test_endpoint_0_is_left_out_with_what_belongs_to_it(address: int, name: str) -> None:
    found = parse(configuration(interface(0, 1), endpoint(address), "03cc01", endpoint(0x81)))
    assert found == Configuration((GOOD,), odd=(f"interface 0 has endpoint {name}, which cannot be",))


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x40, 0x70, 0x80 | 0x10, 0x80 | 0x20, 0x80 | 0x40, 0x80 | 0x70])
def test_an_address_with_bits_that_mean_nothing_is_left_out_with_what_belongs_to_it(bits: int) -> None:
    found = parse(configuration(interface(0, 1), endpoint(bits | 1), "03cc01", endpoint(0x81)))
    assert found == Configuration((GOOD,), odd=(f"interface 0 has endpoint 0x{bits | 1:02x}, which cannot be",))


def test_of_an_endpoint_that_is_there_twice_the_first_is_believed() -> None:
    found = parse(configuration(interface(0, 2), endpoint(0x81), "02aa", endpoint(0x81, 512), "02bb"))
    assert found.interfaces == (replace(GOOD, endpoints=(bulk(0x81, b"\x02\xaa"),)),)
    assert found.odd == (
        "interface 0 has endpoint 0x81, which cannot be",
        "interface 0 says that it has 2 endpoints, and has 1",
    )


@pytest.mark.parametrize("alternate", [0, 1])
def test_of_an_endpoint_that_two_interfaces_have_the_first_is_believed(alternate: int) -> None:
    second = interface(1, 2, alternate) + endpoint(0x81, 512) + "02aa" + endpoint(0x01)
    assert parse(configuration(GOOD_HEX, second)) == Configuration(
        (GOOD, Interface(1, 255, endpoints=(bulk(0x01),), alternate=alternate)),
        odd=(
            "interface 1 has endpoint 0x81, which cannot be",
            "interface 1 says that it has 2 endpoints, and has 1",
        ),
    )


def test_an_endpoint_of_any_setting_is_not_for_another_interface() -> None:
    found = parse(
        configuration(
            interface(0), interface(0, 1, 1), endpoint(0x81), interface(1, 1), endpoint(0x02),
            interface(0, 2, 2), endpoint(0x81), endpoint(0x02), interface(1, 2, 1), endpoint(0x81), endpoint(0x02),
        )
    )  # fmt: skip
    assert [[end.address for end in one.endpoints] for one in found.interfaces] == [[], [0x81], [0x02], [0x81], [0x02]]
    assert found.odd == (
        "interface 0 has endpoint 0x02, which cannot be",
        "interface 0 says that it has 2 endpoints, and has 1",
        "interface 1 has endpoint 0x81, which cannot be",
        "interface 1 says that it has 2 endpoints, and has 1",
    )


def test_an_endpoint_of_what_was_left_out_is_free() -> None:
    second = Interface(1, 255, endpoints=(bulk(0x02),))
    found = parse(configuration(GOOD_HEX, interface(0, 1), endpoint(0x02), interface(1, 1), endpoint(0x02)))
    assert found == Configuration((GOOD, second), odd=("interface 0, setting 0, is there twice",))
    found = parse(configuration(interface(0), endpoint(0x12), interface(1, 1), endpoint(0x02)))
    assert found.interfaces == (Interface(0, 255), second)


@pytest.mark.parametrize("size", range(2, 9))
def test_what_is_too_short_is_no_interface(size: int) -> None:
    short, odd = f"{size:02x}{interface(1, 1)[2 : 2 * size]}", f"a descriptor of type 4 has {size} bytes"
    assert parse(configuration(GOOD_HEX, short)) == Configuration((GOOD,), odd=(odd,))
    assert parse(configuration(short, GOOD_HEX)) == Configuration((GOOD,), odd=(odd,))
    found = parse(configuration(GOOD_HEX, short, endpoint(0x02), interface(2, 1), endpoint(0x03)))
    assert found == Configuration(
        (GOOD, Interface(2, 255, endpoints=(bulk(0x03),))), odd=(odd, "an endpoint belongs to no interface")
    )


@pytest.mark.parametrize("size", range(2, 7))
def test_what_is_too_short_is_no_endpoint(size: int) -> None:
    short, odd = f"{size:02x}{endpoint(0x02)[2 : 2 * size]}", f"a descriptor of type 5 has {size} bytes"
    assert parse(configuration(GOOD_HEX, short)) == Configuration((GOOD,), odd=(odd,))
    assert parse(configuration(short, GOOD_HEX)) == Configuration((GOOD,), odd=(odd,))
    assert parse(configuration(interface(0, 2), short, endpoint(0x81))) == Configuration(
        (GOOD,), odd=(odd, "interface 0 says that it has 2 endpoints, and has 1")
    )


def test_an_endpoint_before_the_first_interface_belongs_to_none() -> None:
    odd = "an endpoint belongs to no interface"
    found = parse(configuration("03aa01", endpoint(0x02), endpoint(0x81), GOOD_HEX))
    assert found == Configuration((GOOD,), extra=b"\x03\xaa\x01", odd=(odd, odd))


def test_settings_may_have_the_same_endpoint() -> None:
    found = parse(configuration(GOOD_HEX, interface(0, 1, alternate=1), endpoint(0x81)))
    assert (len(found.interfaces), found.odd) == (2, ())


def test_of_a_setting_that_is_there_twice_the_first_is_believed() -> None:
    found = parse(configuration(GOOD_HEX, interface(0, 1), endpoint(0x02), interface(1), interface(0, 0, alternate=1)))
    assert found == Configuration(
        (GOOD, Interface(1, 255), Interface(0, 255, alternate=1)), odd=("interface 0, setting 0, is there twice",)
    )


@pytest.mark.parametrize("claimed", [0, 2, 255])
def test_a_wrong_number_of_endpoints_is_told(claimed: int) -> None:
    found = parse(configuration(interface(0, claimed), endpoint(0x81)))
    assert found == Configuration((GOOD,), odd=(f"interface 0 says that it has {claimed} endpoints, and has 1",))


def test_every_lie_is_told() -> None:
    parts = (
        endpoint(4), interface(3, 1), endpoint(0), interface(3, 2), endpoint(5), endpoint(5), "02040205",
        "01", interface(4),
    )  # fmt: skip
    assert parse(configuration(*parts, length=8, total=200, count=7)) == Configuration(
        (Interface(3, 255),),
        odd=(
            "its head says that it has 8 bytes",
            "wTotalLength is 200, and there are 69 bytes",
            "an endpoint belongs to no interface",
            "a descriptor of type 4 has 2 bytes",
            "a descriptor of type 5 has 2 bytes",
            "a descriptor says that it has 1 bytes, 10 before the end",
            "interface 3 has endpoint 0x00, which cannot be",
            "interface 3 says that it has 1 endpoints, and has 0",
            "interface 3 has endpoint 0x05, which cannot be",
            "interface 3 says that it has 2 endpoints, and has 1",
            "interface 3, setting 0, is there twice",
            "bNumInterfaces is 7, and there are 1",
        ),
    )


def test_split_gives_what_adds_up() -> None:
    odd: list[str] = []
    assert list(split(bytes.fromhex("02aa03bb01"), odd)) == [b"\x02\xaa", b"\x03\xbb\x01"]
    assert list(split(b"", odd)) == []
    assert not odd
    assert list(split(bytes.fromhex("02aa04bb01"), odd)) == [b"\x02\xaa"]
    assert odd == ["a descriptor says that it has 4 bytes, 3 before the end"]


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


# Strings.


def test_string_byte_by_byte() -> None:
    assert string("USB").hex() == "0803550053004200"
    assert string("").hex() == "0203"
    assert string("\N{EURO SIGN}").hex() == "0403ac20"
    assert string("\N{GRINNING FACE}").hex() == "06033dd800de"
    assert text(bytes.fromhex("06033dd800de")) == "\N{GRINNING FACE}"


def test_a_string_that_is_too_long_is_cut() -> None:
    assert string("x" * MOST_STRING) == string("x" * 1000)
    assert string("x" * 1000)[:2] == b"\xfe\x03"
    assert text(string("x" * 1000)) == "x" * MOST_STRING


def test_a_string_is_not_cut_amid_a_character() -> None:
    face = "\N{GRINNING FACE}"
    assert string("x" * (MOST_STRING - 2) + face).hex() == "fe03" + "7800" * (MOST_STRING - 2) + "3dd800de"
    assert string("x" * (MOST_STRING - 1) + face) == string("x" * (MOST_STRING - 1))
    assert string("x" * (MOST_STRING - 1) + face + "x") == string("x" * (MOST_STRING - 1)), "and nothing behind it"
    assert text(string("x" + face * MOST_STRING)) == "x" + face * (MOST_STRING // 2 - 1)


def test_half_of_a_pair_is_no_character() -> None:
    assert string("\ud83d!").hex() == "06033f002100"
    assert string("\ude00").hex() == "04033f00"


def test_languages_byte_by_byte() -> None:
    assert languages().hex() == "04030904"
    assert languages((ENGLISH, 0x0407)).hex() == "060309040704"
    assert languages(()).hex() == "0203"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", ""),
        ("04", ""),
        ("0404410042", ""),  # of another kind
        ("000341004200", ""),
        ("010341004200", ""),
        ("020341004200", ""),
        ("040341004200", "A"),  # what is behind it does not belong to it
        ("ff0341004200", "AB"),  # there is no more
        ("05034100ff", "A\N{REPLACEMENT CHARACTER}"),  # half a character
        ("040300d8", "\N{REPLACEMENT CHARACTER}"),  # half of a pair
        ("0a0341001b000a004200", "A\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}B"),
        ("06032e204100", "\N{REPLACEMENT CHARACTER}A"),  # what turns the direction of writing
    ],
)
def test_what_a_string_descriptor_says(data: str, said: str) -> None:
    assert text(bytes.fromhex(data)) == said


@given(st.binary(max_size=40) | st.tuples(U8, st.binary(max_size=40)).map(lambda one: bytes((one[0], 3)) + one[1]))
def test_any_bytes_say_something_printable(data: bytes) -> None:
    said = text(data)
    assert said.isprintable()
    assert len(said) <= max(0, len(data) - 1) // 2


PRINTABLE = st.characters(categories=("L", "M", "N", "P", "S"))


@given(st.text(PRINTABLE, max_size=MOST_STRING // 2))
def test_string_round_trip(said: str) -> None:
    assert text(string(said)) == said


@given(st.text(PRINTABLE, min_size=1), st.integers(MOST_STRING // 2, MOST_STRING + 2))
def test_of_any_string_the_beginning_is_kept(part: str, size: int) -> None:
    said = (part * size)[:size]
    data = string(said)
    assert len(data) == data[0] <= 2 + 2 * MOST_STRING
    assert said.startswith(text(data))
    assert text(data) == said or len(data) >= 2 * MOST_STRING, "half a character at most is missing"
