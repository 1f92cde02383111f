"""Which frames are a guest's own."""

from __future__ import annotations

import struct

import pytest
from xennet.sources import Sources, networks

from tests.net.frames import SOURCE4, SOURCE6, UDP, ether, found_in, ipv4, ipv6, udp

MAC = bytes.fromhex("00163e000001")
OTHER = bytes.fromhex("00163e000009")


def arp(hardware: bytes, address: bytes) -> bytes:
    body = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, hardware, address, bytes(6), bytes(4))
    return ether(0x0806, body)


def allows(sources: Sources, frame: bytes) -> bool:
    return sources.allow(frame, found_in(frame))


def test_without_addresses_only_the_mac_counts() -> None:
    sources = Sources(MAC)
    frame = ether(0x0800, ipv4(UDP, udp(b"x")))
    assert allows(sources, frame)
    assert not allows(sources, frame[:6] + OTHER + frame[12:])
    assert allows(sources, ether(0x1234, b"anything"))


@pytest.mark.parametrize(
    ("words", "four", "six"),
    [
        ("192.0.2.1", True, False),
        ("192.0.2.0/24", True, False),
        ("192.0.2.2 2001:db8::1", False, True),
        ("2001:db8::/64", False, True),
        ("10.0.0.0/8", False, False),
    ],
)
def test_addresses_and_networks(words: str, four: bool, six: bool) -> None:
    sources = Sources(MAC, networks(words.split()))
    for tags in ((), (0x8100,), (0x88A8, 0x8100)):
        assert allows(sources, ether(0x0800, ipv4(UDP, udp(b"x")), *tags)) is four
        assert allows(sources, ether(0x86DD, ipv6(UDP, udp(b"x")), *tags)) is six
    assert allows(sources, arp(MAC, SOURCE4)) is four


def test_what_finds_out_about_addresses_is_allowed() -> None:
    sources = Sources(MAC, networks(["192.0.2.9"]))
    assert allows(sources, arp(MAC, bytes(4))), "a probe has no address yet"
    assert not allows(sources, arp(OTHER, bytes(4))), "nor may it speak for another card"
    local = ether(0x86DD, ipv6(UDP, udp(b"x"))).replace(SOURCE6, bytes.fromhex("fe80") + bytes(13) + b"\1")
    assert allows(sources, local)


def test_frames_cut_short_are_not_allowed() -> None:
    sources = Sources(MAC, networks(["0.0.0.0/0"]))
    frame = ether(0x0800, ipv4(UDP, udp(b"x")))
    assert allows(sources, frame)
    assert not allows(sources, frame[:28])


def test_a_bad_address_is_named() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.256'"):
        networks(["10.0.0.1", "10.0.0.256"])
