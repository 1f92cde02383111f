"""What a device says of itself, but for its configurations, and what is asked of it: byte by byte, there and back."""

from __future__ import annotations

import struct
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
    DeviceDescriptor,
    Kind,
    Setup,
    languages,
    string,
    text,
)

from tests.usb.configurations import U8, U16

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
