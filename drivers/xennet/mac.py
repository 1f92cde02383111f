"""Addresses of network cards."""

from __future__ import annotations

import secrets

XEN_OUI = bytes((0x00, 0x16, 0x3E))


def random_mac() -> str:
    """One of Xen's own addresses, the third-last byte below 0x80, as libxl makes them."""
    tail = bytearray(secrets.token_bytes(3))
    tail[0] &= 0x7F
    return format_mac(XEN_OUI + bytes(tail))


def format_mac(address: bytes) -> str:
    """Six bytes in lower-case hexadecimal, with colons."""
    return ":".join(f"{byte:02x}" for byte in address)


def parse_mac(text: str) -> bytes:
    """The six bytes. Raises ValueError."""
    found = bytes.fromhex(text.replace(":", ""))
    if len(found) != 6:
        raise ValueError(f"{text!r} is not six bytes")
    return found
