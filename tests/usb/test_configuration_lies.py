"""What is made of a configuration that lies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xenusb.descriptors import Configuration, Interface, split

from tests.usb.configurations import GOOD, GOOD_HEX, bulk, configuration, endpoint, interface, parse


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
