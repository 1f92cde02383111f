"""Addresses of network cards, in text and out of randomness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xennet.mac import format_mac, parse_mac, random_mac


@given(st.binary(min_size=6, max_size=6))
def test_round_trip(address: bytes) -> None:
    text = format_mac(address)
    assert parse_mac(text) == parse_mac(text.upper()) == address


def test_text_is_lower_case_with_colons() -> None:
    assert format_mac(bytes.fromhex("00163eabcdef")) == "00:16:3e:ab:cd:ef"


@pytest.mark.parametrize(
    "text",
    ["", "00:16:3e:01:02", "00:16:3e:01:02:03:04", "00163e010203", "00-16-3e-01-02-03", "0:16:3e:01:02:003",
     "00:16:3e:01:02:0g", " 00:16:3e:01:02:03", "00:16:3e:01:02:03\n", "00:16:3e:01:02:0\u0663"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not six bytes in hexadecimal with colons"):
        parse_mac(text)


@given(st.binary(min_size=3, max_size=3))
def test_random_address_is_one_of_xens_lower_half(tail: bytes) -> None:
    found = parse_mac(random_mac(lambda count: tail[:count]))
    assert found[:3] == bytes.fromhex("00163e")
    assert found[3] == tail[0] & 0x7F
    assert found[4:] == tail[1:]


def test_random_addresses_differ() -> None:
    assert len({random_mac() for _ in range(8)}) > 1
