"""The headers of frames: where they end, and what a TAP is told of them and says itself."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from xennet import headers
from xennet.headers import (
    DATA_VALID,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    VNET,
    Headers,
    parse,
    rx_said,
    tx_said,
    vnet,
)

from tests.net.frames import ICMP, ICMPV6, TCP, UDP, ether, found_in, ipv4, ipv6, tcp, udp
from xenfs.abi.netif import GsoType, RxFlag, TxFlag

V4, V6, QTAG, STAG = 0x0800, 0x86DD, 0x8100, 0x88A8
OPTIONS = bytes(12)
TCP4, TCP6 = ether(V4, ipv4(TCP, tcp(b"x" * 30))), ether(V6, ipv6(TCP, tcp(b"x" * 30)))
UDP4, UDP6 = ether(V4, ipv4(UDP, udp(b"x" * 30))), ether(V6, ipv6(UDP, udp(b"x" * 31)))

WHOLE = [
    ("tcp", TCP4, Headers(14, 34, 54, V4, TCP)),
    ("tcp, options", ether(V4, ipv4(TCP, tcp(b"x", options=OPTIONS))), Headers(14, 34, 66, V4, TCP)),
    ("tcp, IP options", ether(V4, ipv4(TCP, tcp(), options=OPTIONS)), Headers(14, 46, 66, V4, TCP)),
    ("udp", UDP4, Headers(14, 34, 42, V4, UDP)),
    ("icmp", ether(V4, ipv4(ICMP, bytes(8))), Headers(14, 34, 42, V4, ICMP)),
    ("first fragment", ether(V4, ipv4(UDP, udp(), fragment=0x2000)), Headers(14, 34, 42, V4, UDP)),
    ("one tag", ether(V4, ipv4(TCP, tcp()), QTAG), Headers(18, 38, 58, V4, TCP)),
    ("two tags", ether(V6, ipv6(TCP, tcp()), STAG, QTAG), Headers(22, 62, 82, V6, TCP)),
    ("tcp over IPv6", TCP6, Headers(14, 54, 74, V6, TCP)),
    ("udp over IPv6", UDP6, Headers(14, 54, 62, V6, UDP)),
    ("icmp over IPv6", ether(V6, ipv6(ICMPV6, bytes(8))), Headers(14, 54, 62, V6, ICMPV6)),
    ("hop by hop", ether(V6, ipv6(UDP, udp(), (0, bytes(6)))), Headers(14, 62, 70, V6, UDP)),
    ("longer extensions", ether(V6, ipv6(TCP, tcp(), (60, bytes(14)), (43, bytes(22)))), Headers(14, 94, 114, V6, TCP)),
    ("authentication", ether(V6, ipv6(TCP, tcp(), (51, bytes(10)))), Headers(14, 66, 86, V6, TCP)),
    ("first fragment of IPv6", ether(V6, ipv6(UDP, udp(), (44, b"\0\1" + bytes(4)))), Headers(14, 62, 70, V6, UDP)),
]
PARTLY = [
    ("arp", ether(0x0806, bytes(28)), Headers(14, 0, 14, 0x0806, -1)),
    ("three tags", ether(V4, ipv4(TCP, tcp()), QTAG, QTAG, QTAG), Headers(22, 0, 22, QTAG, -1)),
    ("tag cut off", ether(V4, b"", QTAG)[:16], Headers(14, 0, 14, QTAG, -1)),
    ("later fragment", ether(V4, ipv4(UDP, udp(), fragment=1)), Headers(14, 0, 34, V4, -1)),
    ("later fragment of IPv6", ether(V6, ipv6(UDP, udp(), (44, b"\0\x08" + bytes(4)))), Headers(14, 0, 62, V6, -1)),
    ("sctp", ether(V4, ipv4(132, bytes(12))), Headers(14, 0, 34, V4, -1)),
    ("icmp of the other family", ether(V4, ipv4(ICMPV6, bytes(8))), Headers(14, 0, 34, V4, -1)),
    ("IPv4 cut off", TCP4[:33], Headers(14, 0, 14, V4, -1)),
    ("IPv6 cut off", TCP6[:53], Headers(14, 0, 14, V6, -1)),
    ("IPv6 called IPv4", ether(V4, ipv6(TCP, tcp())), Headers(14, 0, 14, V4, -1)),
    ("IPv4 called IPv6", ether(V6, ipv4(TCP, tcp(bytes(20)))), Headers(14, 0, 14, V6, -1)),
    ("IPv4 header of 16 bytes", ether(V4, b"\x44" + ipv4(TCP, tcp())[1:]), Headers(14, 0, 30, V4, -1)),
    ("IPv4 options cut off", ether(V4, b"\x4f" + ipv4(TCP, b"")[1:]), Headers(14, 0, 34, V4, -1)),
    ("tcp cut off", TCP4[:53], Headers(14, 0, 34, V4, -1)),
    ("udp cut off", UDP4[:41], Headers(14, 0, 34, V4, -1)),
    ("tcp header of 16 bytes", ether(V4, ipv4(TCP, tcp()[:12] + b"\x40" + tcp()[13:])), Headers(14, 0, 34, V4, -1)),
    ("tcp options cut off", ether(V4, ipv4(TCP, tcp()[:12] + b"\x60" + tcp()[13:])), Headers(14, 0, 34, V4, -1)),
    ("extension cut off", ether(V6, ipv6(TCP, b"", (0, bytes(6))))[:58], Headers(14, 0, 54, V6, -1)),
    ("extension too long", ether(V6, ipv6(0, bytes((TCP, 255)) + tcp())), Headers(14, 0, 76, V6, -1)),
]
Case = tuple[str, bytes, Headers]


def name_of(case: object) -> str:
    return str(case[0]) if isinstance(case, tuple) else str(case)


# Finding them.


@pytest.mark.parametrize("case", [*WHOLE, *PARTLY], ids=name_of)
def test_where_the_headers_are(case: Case) -> None:
    _, frame, expected = case
    assert parse(frame) == expected
    assert expected.end <= len(frame)


@pytest.mark.parametrize("case", WHOLE, ids=name_of)
def test_no_beginning_of_a_frame_makes_trouble(case: Case) -> None:
    _, frame, expected = case
    for size in range(len(frame) + 1):
        found = parse(frame[:size])
        if size < 14:
            assert found is None
        elif size >= expected.end:
            assert found == expected
        else:
            assert found is not None
            assert found.end <= size
            assert (found.l4, found.protocol) == (0, -1)


def boxes() -> st.SearchStrategy[bytes]:
    """Frames that are usually whole, with a few bytes replaced, and what is no frame at all."""

    def broken(frame: bytes, changes: list[tuple[int, int]], size: int) -> bytes:
        data = bytearray(frame)
        for at, byte in changes:
            data[at % len(data)] = byte
        return bytes(data[:size])

    frames = st.sampled_from([frame for _, frame, _ in WHOLE])
    change = st.tuples(st.integers(0, 200), st.integers(0, 255))
    return st.binary(max_size=200) | st.builds(broken, frames, st.lists(change, max_size=6), st.integers(0, 200))


@given(boxes())
@example(ether(V6, ipv6(0, bytes(80))))
def test_any_bytes_are_searched_without_an_error(data: bytes) -> None:
    found = parse(data)
    if found is None:
        assert len(data) < 14
        return
    assert 14 <= found.l3 <= found.end <= len(data)
    assert found.l4 == 0 or found.l3 + 20 <= found.l4 <= found.end - 8
    assert (found.l4 == 0) == (found.protocol == -1)


@given(boxes(), st.booleans(), st.booleans(), st.sampled_from([0, 1, 2, 3, 255]), st.sampled_from([0, 1, 1448, 65535]))
def test_any_claim_about_any_frame_is_packed_or_refused(
    data: bytes, blank: bool, valid: bool, kind: int, size: int
) -> None:
    found = parse(data)
    if found is None:
        return
    said = vnet(found, blank=blank, valid=valid, gso_type=kind, gso_size=size)
    if said is None:
        assert blank or kind
        return
    flags, gso, end, segment, start, offset = VNET.unpack(said)
    if flags & NEEDS_CSUM:
        assert start + offset + 2 <= found.end <= len(data), "a TAP refuses what lies outside the frame"
    if gso != GSO_NONE:
        assert (end, segment) == (found.end, size)
        assert size


# What a TAP is told.

SAID: list[tuple[bytes, dict[str, int], tuple[int, ...] | None]] = [
    (TCP4, {}, (0, 0, 0, 0, 0, 0)),
    (TCP4, {"valid": 1}, (DATA_VALID, 0, 0, 0, 0, 0)),
    (TCP4, {"blank": 1, "valid": 1}, (NEEDS_CSUM, 0, 0, 0, 34, 16)),
    (UDP4, {"blank": 1}, (NEEDS_CSUM, 0, 0, 0, 34, 6)),
    (UDP6, {"blank": 1}, (NEEDS_CSUM, 0, 0, 0, 54, 6)),
    (TCP4, {"gso_type": 1, "gso_size": 1448}, (NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)),
    (TCP6, {"blank": 1, "gso_type": 2, "gso_size": 1428}, (NEEDS_CSUM, GSO_TCPV6, 74, 1428, 54, 16)),
    (TCP4, {"gso_type": 2, "gso_size": 1448}, None),
    (TCP6, {"gso_type": 1, "gso_size": 1448}, None),
    (TCP6, {"gso_type": 3, "gso_size": 1448}, None),
    (UDP4, {"gso_type": 1, "gso_size": 1448}, None),
    (TCP4, {"gso_type": 1, "gso_size": 0}, None),
    (ether(V4, ipv4(ICMP, bytes(8))), {"blank": 1}, None),
    (ether(V4, ipv4(ICMP, bytes(8))), {"valid": 1}, (DATA_VALID, 0, 0, 0, 0, 0)),
    (ether(0x0806, bytes(28)), {"blank": 1}, None),
    (ether(V4, ipv4(UDP, udp(), fragment=1)), {"blank": 1}, None),
]


@pytest.mark.parametrize(("frame", "given_", "expected"), SAID)
def test_header_for_a_tap(frame: bytes, given_: dict[str, int], expected: tuple[int, ...] | None) -> None:
    said = {"blank": False, "valid": False, **{k: bool(v) for k, v in given_.items() if not k.startswith("gso")}}
    sizes = {k: v for k, v in given_.items() if k.startswith("gso")}
    header = vnet(found_in(frame), blank=said["blank"], valid=said["valid"], **sizes)
    assert (header and VNET.unpack(header)) == expected


BLANK_TX, VALID_TX = TxFlag.csum_blank | TxFlag.data_validated, TxFlag.data_validated
BLANK_RX, VALID_RX = RxFlag.csum_blank | RxFlag.data_validated, RxFlag.data_validated


@pytest.mark.parametrize(
    ("fields", "tx", "rx", "gso"),
    [
        ((0, 0, 0, 0, 0, 0), 0, 0, (0, 0)),
        ((DATA_VALID, 0, 0, 0, 0, 0), VALID_TX, VALID_RX, (0, 0)),
        ((NEEDS_CSUM, 0, 0, 0, 34, 16), BLANK_TX, BLANK_RX, (0, 0)),
        ((NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16), BLANK_TX, BLANK_RX, (GsoType.tcpv4, 1448)),
        ((NEEDS_CSUM, GSO_TCPV6 | GSO_ECN, 74, 1428, 54, 16), BLANK_TX, BLANK_RX, (GsoType.tcpv6, 1428)),
        ((NEEDS_CSUM, 3, 42, 1472, 34, 6), BLANK_TX, BLANK_RX, (0, 0)),
        ((DATA_VALID, GSO_NONE, 0, 77, 0, 0), VALID_TX, VALID_RX, (0, 0)),
    ],
)
def test_what_a_tap_says(fields: tuple[int, ...], tx: int, rx: int, gso: tuple[int, int]) -> None:
    header = VNET.pack(*fields)
    assert tx_said(header) == (tx, *gso)
    assert rx_said(bytearray(header)) == (rx, *gso)


def test_the_flags_of_the_two_directions_are_swapped() -> None:
    needs, valid = VNET.pack(NEEDS_CSUM, 0, 0, 0, 34, 16), VNET.pack(DATA_VALID, 0, 0, 0, 0, 0)
    assert (tx_said(needs)[0], rx_said(needs)[0]) == (3, 3)
    assert (tx_said(valid)[0], rx_said(valid)[0]) == (2, 1)


@given(st.binary(min_size=10, max_size=10))
def test_any_header_of_a_tap_means_something(header: bytes) -> None:
    for said, most in ((tx_said, 3), (rx_said, 3)):
        flags, kind, size = said(header)
        assert flags & ~most == 0
        assert kind in (0, 1, 2)
        assert kind or not size


def test_virtio_net_hdr_byte_by_byte() -> None:
    header = vnet(found_in(TCP4), blank=True, valid=False, gso_type=1, gso_size=0x0102)
    assert header is not None
    assert header.hex() == "01013600020122001000"
    assert headers.VNET_SIZE == VNET.size == struct.calcsize("=BBHHHH")
