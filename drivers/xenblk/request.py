"""A request out of the ring, checked once: what blkback is asked for, as a value that can only be legal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xenfs.abi.blkif import (
    LAST_SECTOR,
    MAX_SEGMENTS,
    SECTOR_SIZE,
    Discard,
    Indirect,
    Op,
    Request,
    Status,
    descriptor_pages,
    segments,
)
from xenfs.abi.wire import FieldError
from xenfs.domain import Refused

MAX_INDIRECT = 256
"""Segments of an indirect request, as blkback offers."""
_DATA = (Op.read, Op.write, Op.write_barrier, Op.flush_diskcache)
Piece = tuple[int, int, int]
"""A grant, an offset in its page, and a number of bytes."""
Segments = Sequence[tuple[int, int, int]]
FetchTables = Callable[[Sequence[int], int], Segments]
"""Gives the segments that lie in descriptor pages, copied; raises Refused."""


class Bad(Exception):
    """A request that cannot be carried out: what is said in its response, and why."""

    def __init__(self, op: int, why: str, status: Status = Status.error) -> None:
        """`op`: what the response repeats."""
        super().__init__(why)
        self.op, self.status = op, status


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done: bytes `offset` to `offset + size` of the disk, from or into the pieces."""

    number: int
    op: int
    offset: int
    size: int
    pieces: tuple[Piece, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether the guest's pages are only read."""
        return self.op != Op.read


def parse(entry: Request, sectors: int, sector_size: int, fetch: FetchTables) -> Wish:
    """Check a request for a disk of `sectors` units of 512 bytes. Raises Bad."""
    op, count, _, number, sector, rest = entry
    if op == Op.indirect:
        return _indirect(entry, sectors, sector_size, fetch)
    if op == Op.discard:
        wanted = Discard.parse(entry)
        _within(op, wanted.sector, wanted.sectors, sectors, sector_size)
        return Wish(number, op, wanted.sector * SECTOR_SIZE, wanted.sectors * SECTOR_SIZE)
    if op not in _DATA:
        raise Bad(op, f"operation {op}", Status.eopnotsupp)
    least = 0 if op in (Op.flush_diskcache, Op.write_barrier) else 1
    if not least <= count <= MAX_SEGMENTS:
        raise Bad(op, f"{count} segments: from {least} to {MAX_SEGMENTS}")
    return _wish(number, op, sector, list(segments(rest, count)), sectors, sector_size)


def _indirect(entry: Request, sectors: int, sector_size: int, fetch: FetchTables) -> Wish:
    inner, count = entry[1], entry[2]
    if inner not in (Op.read, Op.write):
        raise Bad(inner, f"indirect operation {inner}")
    if not 1 <= count <= MAX_INDIRECT:
        raise Bad(inner, f"{count} indirect segments: from 1 to {MAX_INDIRECT}")
    try:
        wanted = Indirect.parse(entry)
        found = fetch(wanted.grefs[: descriptor_pages(count)], count)
    except (FieldError, Refused) as error:
        raise Bad(inner, str(error)) from None
    return _wish(wanted.id, inner, wanted.sector, found, sectors, sector_size)


def _wish(number: int, op: int, sector: int, found: Segments, sectors: int, sector_size: int) -> Wish:
    pieces, total, unit = [], 0, sector_size // SECTOR_SIZE
    for ref, first, last in found:
        if not first <= last <= LAST_SECTOR:
            raise Bad(op, f"sectors {first} to {last} of a page: at most 0 to {LAST_SECTOR}")
        length = last - first + 1
        if unit > 1 and length % unit:
            raise Bad(op, f"{length} sectors of a page: the disk has sectors of {sector_size} bytes")
        pieces.append((ref, first * SECTOR_SIZE, length * SECTOR_SIZE))
        total += length
    if total:
        _within(op, sector, total, sectors, sector_size)
    return Wish(number, op, sector * SECTOR_SIZE, total * SECTOR_SIZE, tuple(pieces))


def _within(op: int, sector: int, count: int, sectors: int, sector_size: int) -> None:
    if sector + count > sectors:
        raise Bad(op, f"sectors {sector} to {sector + count - 1}: the disk has {sectors}")
    unit = sector_size // SECTOR_SIZE
    if unit > 1 and (sector % unit or count % unit):
        raise Bad(op, f"sectors {sector} to {sector + count - 1}: not whole sectors of {sector_size} bytes")
