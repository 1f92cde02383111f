"""Captures: read back by a reader of a screen's size, and by tcpdump where it is."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xennet.pcapng import Writer

from tests.need import need_tool
from tests.net.frames import UDP, ether, ipv4, udp

Block = tuple[int, bytes]
FRAME = ether(0x0800, ipv4(UDP, udp(b"hello")))


def blocks(data: bytes) -> list[Block]:
    """Type and body of each block; both lengths of every one are held against each other."""
    found, at = [], 0
    while at < len(data):
        kind, total = struct.unpack_from("<II", data, at)
        assert total % 4 == 0
        assert struct.unpack_from("<I", data, at + total - 4) == (total,)
        found.append((kind, data[at + 8 : at + total - 4]))
        at += total
    assert at == len(data)
    return found


def options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while True:
        code, size = struct.unpack_from("<HH", data, at)
        at += 4
        if not code:
            assert (size, at) == (0, len(data))
            return found
        found[code] = data[at : at + size]
        assert not any(data[at + size : at + size + -size % 4])
        at += size + -size % 4


def packet(body: bytes) -> tuple[int, int, bytes, int, bytes]:
    """Interface, time, data, length, flags."""
    interface, high, low, size, length = struct.unpack_from("<5I", body)
    data, padded = body[20 : 20 + size], 20 + size + -size % 4
    assert not any(body[20 + size : padded])
    return interface, high << 32 | low, data, length, options(body[padded:])[2]


def test_head_byte_by_byte() -> None:
    file = io.BytesIO()
    Writer(file, ["vif1.0"])
    section = "0a0d0d0a 1c000000 4d3c2b1a 01000000 ffffffff ffffffff 1c000000"
    interface = "01000000 2c000000 01000000 00000000 02000600 76696631 2e300000 09000100 09000000 00000000 2c000000"
    assert file.getvalue().hex(" ", 4) == f"{section} {interface}"


def test_interfaces_have_names_and_nanoseconds() -> None:
    file = io.BytesIO()
    Writer(file, ["eth0", "vif3.1-\u00e4"])
    kinds, bodies = zip(*blocks(file.getvalue()), strict=True)
    assert kinds == (0x0A0D0D0A, 1, 1)
    assert [options(body[8:]) for body in bodies[1:]] == [
        {2: b"eth0", 9: b"\x09"},
        {2: "vif3.1-\u00e4".encode(), 9: b"\x09"},
    ]


def test_packet_byte_by_byte() -> None:
    file = io.BytesIO()
    writer = Writer(file, ["eth0"])
    start = file.tell()
    writer.packet(0, 0x0102030405060708, [b"abc", memoryview(b"de")], 60, True)
    assert file.getvalue()[start:].hex(" ", 4) == (
        "06000000 34000000 00000000 04030201 08070605 05000000 3c000000 61626364 65000000 "
        "02000400 02000000 00000000 34000000"
    )


PACKETS = st.tuples(
    st.integers(0, 2),
    st.integers(0, (1 << 64) - 1),
    st.lists(st.binary(max_size=9), max_size=4),
    st.integers(0, 70_000),
    st.booleans(),
)


@given(st.lists(PACKETS, max_size=5))
def test_what_is_written_is_read(packets: list[tuple[int, int, list[bytes], int, bool]]) -> None:
    file = io.BytesIO()
    writer = Writer(file, ["a", "b", "c"])
    for number, time, pieces, length, outbound in packets:
        writer.packet(number, time, pieces, length, outbound)
    read = [packet(body) for kind, body in blocks(file.getvalue()) if kind == 6]
    assert read == [
        (number, time, data, max(len(data), length), struct.pack("<I", 2 if outbound else 1))
        for number, time, pieces, length, outbound in packets
        for data in [b"".join(pieces)]
    ]


def test_every_packet_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    path = tmp_path / "c.pcapng"
    with path.open("wb") as file:
        writer = Writer(file, ["eth0"])
        for count in range(1, 4):
            writer.packet(0, count, [FRAME], len(FRAME), False)
            assert len(blocks(path.read_bytes())) == 2 + count


def test_what_cannot_be_written_is_refused_and_leaves_the_file_whole() -> None:
    file = io.BytesIO()
    with pytest.raises(ValueError, match="at least one interface"):
        Writer(file, [])
    with pytest.raises(ValueError, match="an option of 65536 bytes: at most 65535"):
        Writer(file, ["x" * 65536])
    assert file.getvalue() == b""
    writer = Writer(file, ["eth0"])
    head = file.getvalue()
    for number in (-1, 1):
        with pytest.raises(ValueError, match=f"interface {number} is not one of the 1"):
            writer.packet(number, 0, [FRAME], len(FRAME), False)
    assert file.getvalue() == head


def test_tcpdump_reads_it(tmp_path: Path) -> None:
    tcpdump = need_tool("tcpdump", "tcpdump")
    path = tmp_path / "c.pcapng"
    with path.open("wb") as file:
        writer = Writer(file, ["vif1.0"])
        writer.packet(0, 1_700_000_000_123_456_789, [FRAME[:20], memoryview(FRAME)[20:]], len(FRAME), False)
    command = [tcpdump, "-n", "-tt", "--nano", "-r", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    assert said.startswith("1700000000.123456789 ")
    assert "192.0.2.1.1024 > 198.51.100.7.53" in said
