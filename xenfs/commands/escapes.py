"""What is not printable is escaped: as the xenstore-* programs show and take values of the store, and in any line."""

from __future__ import annotations

import re

_LETTERS = {9: b"\\t", 10: b"\\n", 13: b"\\r", 92: b"\\\\"}
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.)|\Z)", re.DOTALL)
_PLAIN = {ord("t"): b"\t", ord("n"): b"\n", ord("r"): b"\r"}


def _shown(byte: int) -> bytes:
    if byte in _LETTERS:
        return _LETTERS[byte]
    if 32 <= byte <= 126:
        return bytes([byte])
    return b"\\%03o" % byte if byte < 8 else b"\\x%02x" % byte


def sanitised(value: bytes) -> bytes:
    """As it is shown."""
    return b"".join(map(_shown, value))


def _meant(found: re.Match[bytes]) -> bytes:
    digits, octal, letter = found.groups()
    if digits is not None:
        return bytes([int(digits, 16)])
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    return b"\0" if letter is None else _PLAIN.get(letter[0], letter)


def unsanitised(text: bytes) -> bytes:
    """What somebody means who types it."""
    return _ESCAPE.sub(_meant, text)


def plain(said: str) -> str:
    """A line in which a guest may have written, with nothing in it that a terminal would obey."""
    if said.isprintable():
        return said
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in said)
