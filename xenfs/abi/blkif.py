"""The block ring (xen/io/blkif.h): entries of both layouts, segments, indirect descriptors, numbers.

A request is read as the plain tuple of its ring codec. Its first five fields lie in the same order for every operation,
and the last 88 bytes are left as they are, since what they hold depends on the operation:

    read, write, barrier, flush   operation, segments,      handle,   id, sector   up to 11 segments
    discard                       operation, flag,          handle,   id, sector   the number of sectors
    indirect                      operation, inner,         segments, id, sector   handle, 8 grants of descriptor pages

A response is id, operation, status. Sectors are of 512 bytes everywhere, whatever `sector-size` says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import MappingProxyType

from xenfs.abi.ring import RingFormat
from xenfs.abi.wire import Buffer, FieldError

HEADER = "xen/io/blkif.h"
SECTOR_SIZE = 512
MAX_SEGMENTS = 11
"""BLKIF_MAX_SEGMENTS_PER_REQUEST."""
MAX_INDIRECT_PAGES = 8
"""BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST."""
LAST_SECTOR = 7
"""The highest sector in a page."""
DISCARD_SECURE = 1

Request = tuple[int, int, int, int, int, bytes]

X86_64 = RingFormat("blkif", request=struct.Struct("<BBH4xQQ88s"), response=struct.Struct("<QBxh4x"))
"""The layout where a u64 is aligned to 8 bytes: of x86-64, and of Arm."""
X86_32 = RingFormat("blkif", request=struct.Struct("<BBHQQ88s"), response=struct.Struct("<QBxh"))
"""The layout where a u64 is aligned to 4 bytes."""
FORMATS: Mapping[str, RingFormat] = MappingProxyType({"x86_64-abi": X86_64, "x86_32-abi": X86_32, "arm-abi": X86_64})
"""By what a frontend writes to `protocol` (xen/io/protocols.h); without the key, both ends are alike: X86_64."""

SEGMENT = struct.Struct("<IBB2x")
"""gref, first sector, last sector (inclusive); in requests and in descriptor pages."""
NR_SECTORS = struct.Struct("<Q")
INDIRECT = struct.Struct("<H2x8I")
"""The handle and the grants of an indirect request."""
REST = 88
SEGMENTS_PER_PAGE = 4096 // SEGMENT.size

assert (X86_64.request.size, X86_64.response.size, X86_64.slots(4096)) == (112, 16, 32)
assert (X86_32.request.size, X86_32.response.size, X86_32.slots(4096)) == (108, 12, 32)
assert (SEGMENT.size, SEGMENT.size * MAX_SEGMENTS, INDIRECT.size, SEGMENTS_PER_PAGE) == (8, REST, 36, 512)


class Op(IntEnum):
    """BLKIF_OP_*."""

    read = 0
    write = 1
    write_barrier = 2
    flush_diskcache = 3
    reserved_1 = 4
    discard = 5
    indirect = 6


class Status(IntEnum):
    """BLKIF_RSP_*."""

    okay = 0
    error = -1
    eopnotsupp = -2


class Info(IntFlag):
    """VDISK_*: the bits of a backend's `info`."""

    cdrom = 1
    removable = 2
    readonly = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive sectors of one page, `first` to `last` inclusive."""

    gref: int
    first: int = 0
    last: int = LAST_SECTOR

    @classmethod
    def parse(cls, data: Buffer, offset: int = 0) -> Segment:
        """Read one. Raises FieldError when `data` ends before it does."""
        if not 0 <= offset <= len(data) - SEGMENT.size:
            raise FieldError("segment", "data", len(data), f"at least {offset}+{SEGMENT.size} bytes")
        return cls(*SEGMENT.unpack_from(data, offset))

    def emit(self) -> bytes:
        """Its eight bytes."""
        return SEGMENT.pack(self.gref, self.first, self.last)


def segments(data: Buffer, count: int) -> Iterator[tuple[int, int, int]]:
    """The first `count` segments of a request's rest or of a descriptor page, as raw tuples.

    They are copied first, so `data` may be shared memory. Raises FieldError when it has no room for so many.
    """
    if not 0 <= count * SEGMENT.size <= len(data):
        raise FieldError("segments", "nr_segments", count, f"a number from 0 to {len(data) // SEGMENT.size}")
    return SEGMENT.iter_unpack(bytes(data[: count * SEGMENT.size]))


def direct(op: int, handle: int, number: int, sector: int, parts: Sequence[Segment]) -> Request:
    """The request with its segments in itself; `number` is its id. Raises FieldError for more than 11."""
    if len(parts) > MAX_SEGMENTS:
        raise FieldError("request", "nr_segments", len(parts), f"a number from 0 to {MAX_SEGMENTS}")
    return op, len(parts), handle, number, sector, b"".join(part.emit() for part in parts)


@dataclass(frozen=True, slots=True)
class Discard:
    """Sectors whose content is not needed any more."""

    id: int
    sector: int
    sectors: int
    secure: bool = False
    handle: int = 0

    @classmethod
    def parse(cls, entry: Request) -> Discard:
        """Out of a ring codec's tuple."""
        _, flag, handle, number, sector, rest = entry
        return cls(number, sector, NR_SECTORS.unpack_from(rest)[0], bool(flag & DISCARD_SECURE), handle)

    def emit(self) -> Request:
        """For a ring codec."""
        flag = DISCARD_SECURE if self.secure else 0
        return int(Op.discard), flag, self.handle, self.id, self.sector, NR_SECTORS.pack(self.sectors)


@dataclass(frozen=True, slots=True)
class Indirect:
    """A read or write whose `count` segments lie in granted pages, 512 in each.

    `op` is a peer's word until checked, as everything here but the number of `grefs`, which is what `count` needs.
    """

    op: int
    id: int
    sector: int
    count: int
    grefs: tuple[int, ...]
    handle: int = 0

    @classmethod
    def parse(cls, entry: Request) -> Indirect:
        """Out of a ring codec's tuple. Raises FieldError for no segments, or more than 8 pages of them."""
        _, op, count, number, sector, rest = entry
        handle, *grefs = INDIRECT.unpack_from(rest)
        return cls(op, number, sector, count, tuple(grefs[: descriptor_pages(count)]), handle)

    def emit(self) -> Request:
        """For a ring codec. Raises FieldError when `grefs` are not as many as `count` needs."""
        if len(self.grefs) != (pages := descriptor_pages(self.count)):
            raise FieldError("indirect", "grefs", len(self.grefs), f"{pages}, which {self.count} segments need")
        rest = INDIRECT.pack(self.handle, *self.grefs, *[0] * (MAX_INDIRECT_PAGES - pages))
        return int(Op.indirect), self.op, self.count, self.id, self.sector, rest


def descriptor_pages(count: int) -> int:
    """Pages that so many indirect segments need. Raises FieldError unless that is 1 to 8."""
    pages = -(-count // SEGMENTS_PER_PAGE)
    if not 1 <= pages <= MAX_INDIRECT_PAGES:
        most = MAX_INDIRECT_PAGES * SEGMENTS_PER_PAGE
        raise FieldError("indirect", "nr_segments", count, f"a number from 1 to {most}")
    return pages
