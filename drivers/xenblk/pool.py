"""blkfront's pages: granted once and used again and again, some for small requests and some for large ones."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from xenfs.abi.blkif import LAST_SECTOR, SEGMENT
from xenfs.abi.xen import PAGE_SIZE
from xenfs.xenbus.frontend import Shared


@dataclass(frozen=True, slots=True)
class Shape:
    """How many slots of a page and of many there are, and of how many the large ones: by default, of as much as the
    kernel asks a mount for in one request.
    """

    small: int = 32
    large: int = 8
    large_pages: int = 32

    @property
    def pages(self) -> int:
        """All of them."""
        return self.small + self.large * self.large_pages


@dataclass(slots=True, eq=False)
class Slot:
    """Pages one behind the other, at `address`, with their grants; `table` is a granted page that lists them."""

    address: int
    refs: tuple[int, ...]
    table: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.refs) * PAGE_SIZE

    def segments(self, size: int) -> list[tuple[int, int, int]]:
        """The segments of its first bytes."""
        pages, rest = divmod(size, PAGE_SIZE)
        found = [(ref, 0, LAST_SECTOR) for ref in self.refs[:pages]]
        if rest:
            found.append((self.refs[pages], 0, rest // 512 - 1))
        return found


class Pool:
    """Slots that are free."""

    def __init__(self, shape: Shape, shared: Shared, tables: Shared) -> None:
        """Of so many pages; `tables` are one for each large slot."""
        view, _, refs = shared
        self._tables, _, table_refs = tables
        anchor = ctypes.c_char.from_buffer(view)
        base = ctypes.addressof(anchor)
        del anchor
        self._small = [Slot(base + at * PAGE_SIZE, (refs[at],)) for at in range(shape.small)]
        self._large = []
        for number in range(shape.large):
            first = shape.small + number * shape.large_pages
            own = tuple(refs[first : first + shape.large_pages])
            self._large.append(Slot(base + first * PAGE_SIZE, own, table_refs[number]))
        self._numbers = {slot: number for number, slot in enumerate(self._large)}
        self._described: dict[Slot, int] = {}

    def take(self, size: int) -> Slot | None:
        """A slot for so many bytes, at most a large one; None when there is none now."""
        if size <= PAGE_SIZE and self._small:
            return self._small.pop()
        return self._large.pop() if self._large else None

    def give(self, slot: Slot) -> None:
        """It is free again."""
        (self._large if slot.table else self._small).append(slot)

    def describe(self, slot: Slot, size: int) -> None:
        """Write into a slot's table how much of it is meant, unless it says so."""
        if self._described.get(slot) == size:
            return
        self._described[slot] = size
        at = self._numbers[slot] * PAGE_SIZE
        data = b"".join(SEGMENT.pack(*segment) for segment in slot.segments(size))
        self._tables[at : at + len(data)] = data
