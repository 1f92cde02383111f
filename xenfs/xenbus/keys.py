"""Keys of a device as data: who writes which, of what kind, and what is read when it is absent.

The tables serve the drivers, which read the other end's keys by them, and whoever wants to know why a device is stuck.
A value of the other end's is parsed once, from a copy, and what does not parse is a PeerProtocolError.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from xenfs.domain import Refused
from xenfs.domain.store import Reader
from xenfs.xenbus.errors import PeerProtocolError

Value = int | str | bool
_SHOWN = 40


class Writer(Enum):
    """Who writes a key, and in which of the two directories."""

    toolstack = "toolstack, for the backend"
    toolstack_front = "toolstack, for the frontend"
    hotplug = "hotplug"
    frontend = "frontend"
    backend = "backend"


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal number, `low` to `high`."""

    low: int = 0
    high: int = (1 << 32) - 1

    def parse(self, text: str) -> int:
        """Raises ValueError."""
        if not (text.isascii() and text.isdigit() and len(text) <= 20):
            raise ValueError(f"not a number from {self.low} to {self.high}")
        if not self.low <= int(text) <= self.high:
            raise ValueError(f"not from {self.low} to {self.high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Flag:
    """0 or 1."""

    def parse(self, text: str) -> bool:
        """Raises ValueError."""
        if text not in ("0", "1"):
            raise ValueError("neither 0 nor 1")
        return text == "1"


@dataclass(frozen=True, slots=True)
class Text:
    """Anything that matches a pattern, whole."""

    pattern: str = r"[ -~]*"
    words: str = "not plain text"

    def parse(self, text: str) -> str:
        """Raises ValueError."""
        if not re.fullmatch(self.pattern, text):
            raise ValueError(self.words)
        return text


GREF = Number()
PORT = Number(1, 131071)
DOMID = Number(0, 0x7FEF)
FLAG = Flag()
MAC = Text("[0-9a-f]{2}(:[0-9a-f]{2}){5}", "not six bytes in lower-case hexadecimal, with colons")
Kind = Number | Flag | Text


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Without a default it must be there when `late` is reached: when the other end connects, or before."""

    name: str
    by: Writer
    kind: Kind
    default: Value | None = None
    late: bool = False
    about: str = ""

    @property
    def required(self) -> bool:
        """Whether the other end cannot do without it."""
        return self.default is None


class OtherEnd:
    """The other end's directory, read through the store or, for several keys that belong together, a transaction."""

    def __init__(self, reader: Reader, path: str) -> None:
        """Look at the directory `path`."""
        self._reader, self.path = reader, path

    def raw(self, name: str) -> str | None:
        """A key as it is; None when it is absent or may not be read. Bytes that are no ASCII come as \\x…."""
        try:
            return self._reader.read(f"{self.path}/{name}").decode("ascii", "backslashreplace")
        except Refused as refused:
            if refused.errno in (errno.ENOENT, errno.EACCES):
                return None
            raise

    def get(self, name: str, kind: Kind, default: Value | None = None) -> Value:
        """A key by its kind. Raises PeerProtocolError: it is missing and has no default, or it is malformed."""
        said = self.raw(name)
        if said is None:
            if default is None:
                raise PeerProtocolError(f"{self.path}/{name} is missing", errno.ENOENT)
            return default
        try:
            return kind.parse(said)
        except ValueError as error:
            shown = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}…"
            raise PeerProtocolError(f"{self.path}/{name} = {shown!r}: {error}") from None

    def number(self, name: str, low: int = 0, high: int = (1 << 32) - 1, default: int | None = None) -> int:
        """A decimal number."""
        return int(self.get(name, Number(low, high), default))

    def read(self, keys: Iterable[Key]) -> dict[str, Value]:
        """Several at once."""
        return {key.name: self.get(key.name, key.kind, key.default) for key in keys}
