"""Ethernet frames, put together header by header, with checksums reckoned the slow way."""

from __future__ import annotations

import struct

from xennet.headers import Headers, parse

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SOURCE4, TARGET4 = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 7))
SOURCE6, TARGET6 = bytes.fromhex("20010db8000000000000000000000001"), bytes.fromhex("20010db80000000000000000000000ff")


def sum16(data: bytes) -> int:
    """The ones' complement sum (RFC 1071), one word at a time."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ether(ethertype: int, payload: bytes, *tags: int) -> bytes:
    """A frame; `tags` are the Ethernet types of VLAN tags, outermost first."""
    types = [*tags, ethertype]
    head = bytes.fromhex("00163e00000200163e000001") + struct.pack(">H", types[0])
    return head + b"".join(struct.pack(">HH", 5, following) for following in types[1:]) + payload


def ipv4(protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    words = 5 + len(options) // 4
    fields = (0x40 | words, 0, words * 4 + len(payload), 1, fragment, 64, protocol, 0)
    return struct.pack(">BBHHHBBH", *fields) + SOURCE4 + TARGET4 + options + payload


def ipv6(protocol: int, payload: bytes, *extensions: tuple[int, bytes]) -> bytes:
    """`extensions`: the type of each, and its bytes from the third on (the first two are filled in)."""
    kinds = [kind for kind, _ in extensions] + [protocol]
    body = b""
    for (kind, rest), following in zip(extensions, kinds[1:], strict=True):
        size = len(rest) + 2
        length = 0 if kind == 44 else size // 4 - 2 if kind == 51 else size // 8 - 1
        body += bytes((following, length)) + rest
    body += payload
    return struct.pack(">IHBB", 6 << 28, len(body), kinds[0], 64) + SOURCE6 + TARGET6 + body


def tcp(payload: bytes = b"", *, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    return struct.pack(">HHIIBBHHH", 1024, 80, 1, 2, words << 4, 0x10, 512, 0, 0) + options + payload


def udp(payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", 1024, 53, 8 + len(payload), 0) + payload


def pseudo(six: bool, protocol: int, length: int) -> bytes:
    if six:
        return SOURCE6 + TARGET6 + struct.pack(">IHBB", length, 0, 0, protocol)
    return SOURCE4 + TARGET4 + struct.pack(">BBH", 0, protocol, length)


def found_in(frame: bytes) -> Headers:
    found = parse(frame)
    assert found is not None
    return found
