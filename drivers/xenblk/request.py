"""A request out of the ring, checked once: what blkback is asked for, as a value that can only be legal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xenfs.abi.blkif import (
    LAST_SECTOR,
    MAX_SEGMENTS,
    SECTOR_SIZE,
    SEGMENT,
    SEGMENTS_PER_PAGE,
    Discard,
    Indirect,
    Op,
    Request,
    Status,
)
from xenfs.domain import Refused
from xenfs.xenbus.grants import Pieces

MAX_INDIRECT = 256
"""Segments of an indirect request, as blkback offers."""
_DATA = (Op.read, Op.write, Op.write_barrier, Op.flush_diskcache)
_REMEMBERED = 512
"""Lists of segments."""
FetchTable = Callable[[int, int], bytes]
"""Gives so many bytes of a descriptor page, copied; raises Refused."""


class Bad(Exception):
    """A request that cannot be carried out: what is said in its response, and why."""

    def __init__(self, op: int, why: str, status: Status = Status.error) -> None:
        """`op`: what the response repeats."""
        super().__init__(why)
        self.op, self.status = op, status


_NONE = Pieces(b"", (), 0)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done: bytes `offset` to `offset + size` of the disk, from or into the pieces."""

    number: int
    op: int
    offset: int
    size: int
    pieces: Pieces = _NONE

    @property
    def writes(self) -> bool:
        """Whether the guest's pages are only read."""
        return self.op != Op.read


class Parser:
    """Checks the requests of one ring, for a disk of `sectors` units of 512 bytes.

    A guest uses the same segments again and again. What they come to is remembered by their bytes.
    """

    def __init__(self, sectors: int, sector_size: int, fetch: FetchTable) -> None:
        """`fetch` reads descriptor pages."""
        self.sectors = sectors
        self._unit, self._sector_size, self._fetch = sector_size // SECTOR_SIZE, sector_size, fetch
        self._known: dict[bytes, Pieces] = {b"": _NONE}

    def parse(self, entry: Request) -> Wish:
        """Raises Bad."""
        op, count, _, number, sector, rest = entry
        if op == Op.indirect:
            return self._indirect(entry)
        if op == Op.discard:
            wanted = Discard.parse(entry)
            self._within(op, wanted.sector, wanted.sectors)
            return Wish(number, op, wanted.sector * SECTOR_SIZE, wanted.sectors * SECTOR_SIZE)
        if op not in _DATA:
            raise Bad(op, f"operation {op}", Status.eopnotsupp)
        least = 0 if op in (Op.flush_diskcache, Op.write_barrier) else 1
        if not least <= count <= MAX_SEGMENTS:
            raise Bad(op, f"{count} segments: from {least} to {MAX_SEGMENTS}")
        return self._wish(number, op, sector, rest[: count * SEGMENT.size])

    def _indirect(self, entry: Request) -> Wish:
        inner, count = entry[1], entry[2]
        if inner not in (Op.read, Op.write):
            raise Bad(inner, f"indirect operation {inner}")
        if not 1 <= count <= MAX_INDIRECT:
            raise Bad(inner, f"{count} indirect segments: from 1 to {MAX_INDIRECT}")
        wanted = Indirect.parse(entry)
        try:
            raw = self._fetch(wanted.grefs[0], count * SEGMENT.size)
        except Refused as error:
            raise Bad(inner, str(error)) from None
        return self._wish(wanted.id, inner, wanted.sector, raw)

    def _wish(self, number: int, op: int, sector: int, raw: bytes) -> Wish:
        pieces = self._known.get(raw)
        if pieces is None:
            pieces = self._check(op, raw)
            if len(self._known) >= _REMEMBERED:
                self._known = {b"": _NONE}
            self._known[raw] = pieces
        if pieces.size:
            self._within(op, sector, pieces.size // SECTOR_SIZE)
        return Wish(number, op, sector * SECTOR_SIZE, pieces.size, pieces)

    def _check(self, op: int, raw: bytes) -> Pieces:
        found, total = [], 0
        for ref, first, last in SEGMENT.iter_unpack(raw):
            if not first <= last <= LAST_SECTOR:
                raise Bad(op, f"sectors {first} to {last} of a page: at most 0 to {LAST_SECTOR}")
            length = last - first + 1
            if length % self._unit:
                raise Bad(op, f"{length} sectors of a page: the disk has sectors of {self._sector_size} bytes")
            found.append((ref, first * SECTOR_SIZE, length * SECTOR_SIZE))
            total += length
        return Pieces(raw, tuple(found), total * SECTOR_SIZE)

    def _within(self, op: int, sector: int, count: int) -> None:
        if sector + count > self.sectors:
            raise Bad(op, f"sectors {sector} to {sector + count - 1}: the disk has {self.sectors}")
        if sector % self._unit or count % self._unit:
            raise Bad(op, f"sectors {sector} to {sector + count - 1}: not whole sectors of {self._sector_size} bytes")


assert MAX_INDIRECT <= SEGMENTS_PER_PAGE, "they are in one page"
