"""A directory as it is read: piece by piece, over the listing as it was when its reading began."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from itertools import count

_DIRENT = struct.Struct("<QQII")  # struct fuse_dirent of linux/fuse.h: ino, off, namelen, type; the name, padded to 8
Entry = tuple[str, int, int]
"""Name, inode number and type."""


class Listing:
    """The entries of one open directory. The offset of an entry is its place, so nothing is skipped or doubled."""

    def __init__(self, ino: int, entries: Iterable[Entry]) -> None:
        """Begin with the dots; the others are taken as far as they are asked for."""
        self._taken: list[Entry] = [(".", ino, stat.S_IFDIR), ("..", 1, stat.S_IFDIR)]
        self._rest = iter(entries)

    def _get(self, place: int) -> Entry | None:
        while place >= len(self._taken):
            entry = next(self._rest, None)
            if entry is None:
                return None
            self._taken.append(entry)
        return self._taken[place]

    def pack(self, offset: int, size: int) -> bytes:
        """The entries from an offset on that fit, as the kernel takes them."""
        packed = bytearray()
        for place in count(max(0, offset)):
            entry = self._get(place)
            if entry is None:
                break
            name, ino, kind = entry[0].encode(), entry[1], entry[2] >> 12
            need = _DIRENT.size + len(name) + -len(name) % 8
            if len(packed) + need > size:
                break
            packed += _DIRENT.pack(ino, place + 1, len(name), kind) + name + bytes(-len(name) % 8)
        return bytes(packed)
