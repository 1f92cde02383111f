"""Addresses of network cards."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

XEN_OUI = bytes((0x00, 0x16, 0x3E))
_MAC = re.compile("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def random_mac(source: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """One of Xen's own addresses, the third-last byte below 0x80, as libxl makes them. `source` gives random bytes."""
    tail = bytearray(source(3))
    tail[0] &= 0x7F
    return format_mac(XEN_OUI + bytes(tail))


def format_mac(address: bytes) -> str:
    """Six bytes in lower-case hexadecimal, with colons."""
    return ":".join(f"{byte:02x}" for byte in address)


def parse_mac(text: str) -> bytes:
    """The six bytes of what `format_mac` writes, in either case. Raises ValueError."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{text!r} is not six bytes in hexadecimal with colons, such as 00:16:3e:01:02:03")
    return bytes.fromhex(text.replace(":", ""))
