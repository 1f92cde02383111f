"""Configurations as devices send them, made of parts that need not fit together."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from xenusb.descriptors import Configuration, Endpoint, Interface, split

from xenfs.abi.usbif import PipeType

U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)


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
    """What `endpoint` is read as."""
    return Endpoint(address & 0x0F, address > 0x7F, PipeType.bulk, 64, extra=extra)


def parse(data: bytes) -> Configuration:
    """What is made of bytes that are a configuration."""
    found = Configuration.parse(data)
    assert found is not None
    return found


GOOD = Interface(0, 255, endpoints=(bulk(0x81),))
GOOD_HEX = interface(0, 1) + endpoint(0x81)
