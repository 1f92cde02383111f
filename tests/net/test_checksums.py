"""Checksums of TCP and UDP: blank ones, whole ones, and from the one to the other."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xennet.headers import VNET, complete, partial_checksum, transport_sum, vnet, whole_checksum

from tests.net.frames import ICMP, TCP, UDP, ether, found_in, ipv4, ipv6, pseudo, sum16, tcp, udp

V4, V6 = 0x0800, 0x86DD
TCP4, TCP6 = ether(V4, ipv4(TCP, tcp(b"x" * 30))), ether(V6, ipv6(TCP, tcp(b"x" * 30)))
UDP4, UDP6 = ether(V4, ipv4(UDP, udp(b"x" * 30))), ether(V6, ipv6(UDP, udp(b"x" * 31)))
SUMMED = [(TCP4, False, TCP), (TCP6, True, TCP), (UDP4, False, UDP), (UDP6, True, UDP)]


@pytest.mark.parametrize(("frame", "six", "protocol"), SUMMED)
def test_blank_checksum_is_the_sum_of_the_pseudo_header(frame: bytes, six: bool, protocol: int) -> None:
    found = found_in(frame)
    assert partial_checksum(frame, found) == sum16(pseudo(six, protocol, len(frame) - found.l4))


@pytest.mark.parametrize("frame", [TCP4, TCP6, UDP4, UDP6])
def test_the_kernel_completes_a_blank_checksum_to_the_whole_one(frame: bytes) -> None:
    found = found_in(frame)
    said = vnet(found, blank=True, valid=False)
    assert said is not None
    start, offset = VNET.unpack(said)[4:]
    data = bytearray(frame)
    struct.pack_into(">H", data, start + offset, partial_checksum(frame, found))
    struct.pack_into(">H", data, start + offset, sum16(bytes(data[start:])) ^ 0xFFFF)
    ours = bytearray(frame)
    complete(ours, found)
    assert ours == data
    assert transport_sum(bytes(ours), found) == 0xFFFF
    assert whole_checksum(bytes(ours), found) == whole_checksum(frame, found)


@given(st.binary(max_size=64), st.booleans(), st.booleans(), st.integers(0, 20))
def test_whole_checksum_is_right_whatever_is_sent(payload: bytes, six: bool, stream: bool, padding: int) -> None:
    body, protocol = (tcp(payload), TCP) if stream else (udp(payload), UDP)
    frame = ether(V6, ipv6(protocol, body)) if six else ether(V4, ipv4(protocol, body))
    data = bytearray(frame + b"\xee" * padding)
    found = found_in(bytes(data))
    complete(data, found)
    part = bytes(data[found.l4 : len(frame)])
    assert sum16(pseudo(six, protocol, len(body)) + part) == 0xFFFF
    assert data[len(frame) :] == b"\xee" * padding


def test_checksum_of_a_known_packet() -> None:
    """A datagram, added up by hand: 192.0.2.1:1024 to 198.51.100.7:53, payload "ab"."""
    frame = ether(V4, ipv4(UDP, udp(b"ab")))
    words = (0xC000, 0x0201, 0xC633, 0x6407, 17, 10, 0x0400, 0x0035, 10, 0x6162)
    assert sum(words) == 0x251F7
    assert whole_checksum(frame, found_in(frame)) == 0xFFFF - (0x51F7 + 2)


def test_a_checksum_of_zero_is_sent_as_all_ones() -> None:
    frame = ether(V4, ipv4(UDP, udp(b"\0\0")))
    missing = whole_checksum(frame, found_in(frame))
    frame = frame[:42] + struct.pack(">H", missing)
    assert whole_checksum(frame, found_in(frame)) == 0xFFFF


def test_segments_without_a_length_of_their_own_are_summed_to_the_end() -> None:
    for frame, at in ((TCP4, 16), (TCP6, 18)):
        large = frame[:at] + b"\0\0" + frame[at + 2 :]
        assert partial_checksum(large, found_in(large)) == partial_checksum(frame, found_in(frame))


def test_other_protocols_have_no_checksum_here() -> None:
    frame = ether(V4, ipv4(ICMP, bytes(8)))
    for call in (partial_checksum, whole_checksum, transport_sum):
        with pytest.raises(ValueError, match="protocol 1 has no checksum that is known here"):
            call(frame, found_in(frame))
    with pytest.raises(ValueError, match="protocol 1 "):
        complete(bytearray(frame), found_in(frame))
