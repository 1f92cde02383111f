"""The ioctl GRANT_COPY of dev/gntdev: between grants, and between a grant and the caller's memory.

Segments are taken in batches: the caller's bytes are fetched, then all is copied in order, then the caller gets its
bytes and each segment its status. A batch ends before a segment that reads what one of the batch writes.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenfs.abi.gntdev import GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GrantCopy
from xenfs.abi.grant_table import GntStatus
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenfs_op import ReachGrant
from xenfs.fs.dev import caller
from xenfs.fs.dev.ioctl import OnThread, Remotely
from xenfs.hypervisor.errors import HypercallError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any

    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.dev.ioctl import Asked, Step, Steps
    from xenfs.fs.pages import Page

BATCH = 256
_SEGMENT = struct.Struct("<QQHHhxx")
_STATUS = struct.Struct("<h")
_STATUS_AT = 20
_FOREIGN = struct.Struct("<IHH")
_HEAD = GrantCopy.layout.size


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a segment: an address of the caller's, or an offset in a grant."""

    address: int
    domid: int = 0
    ref: int = 0
    is_grant: bool = False

    @classmethod
    def of(cls, word: int, length: int, is_grant: bool) -> Side:
        """Read it. Raises EINVAL for one that leaves the page of a grant."""
        if not is_grant:
            return cls(word)
        ref, offset, domid = _FOREIGN.unpack(word.to_bytes(8, "little"))
        if offset + length > PAGE_SIZE:
            raise OSError(errno.EINVAL, f"offset {offset} + length {length} leaves the page of grant {ref}")
        return cls(offset, domid, ref, True)


@dataclass(frozen=True, slots=True)
class Segment:
    """A copy of `length` bytes."""

    source: Side
    dest: Side
    length: int

    @classmethod
    def of(cls, data: bytes, at: int) -> Segment:
        """Read it. Raises EINVAL when neither side is a grant."""
        source, dest, length, flags, _ = _SEGMENT.unpack_from(data, at)
        if not flags & (GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF):
            raise OSError(errno.EINVAL, "neither side of a segment is a grant")
        from_grant, to_grant = bool(flags & GNTCOPY_SOURCE_GREF), bool(flags & GNTCOPY_DEST_GREF)
        return cls(Side.of(source, length, from_grant), Side.of(dest, length, to_grant), length)

    def reads(self, other: Segment) -> bool:
        """Whether it reads memory of the caller's that another segment writes."""
        mine, theirs = self.source, other.dest
        if mine.is_grant or theirs.is_grant:
            return False
        return mine.address < theirs.address + other.length and theirs.address < mine.address + self.length


def _batches(segments: Sequence[Segment]) -> list[tuple[int, list[Segment]]]:
    """With the place of each batch's first."""
    found: list[tuple[int, list[Segment]]] = []
    for place, segment in enumerate(segments):
        if not found or any(segment.reads(other) for other in found[-1][1]):
            found.append((place, []))
        found[-1][1].append(segment)
    return found


def _reach(dev: Dev, side: Side, *, write: bool) -> Page:
    request = ReachGrant(dom=side.domid, ref=side.ref, flags=int(write))
    frame = dev.fs.machine.call(request, dev.fs.domid(dev.domain), world=True).frame
    return dev.fs.pages.page(frame, dev.fs.frame_owner(frame))


def _fetch(segments: Sequence[Segment]) -> Callable[[int], bytes]:
    local = [s for s in segments if not s.source.is_grant and s.length]
    return lambda tid: b"".join(caller.fetch(tid, s.source.address, s.length) for s in local)


def _store(pieces: Sequence[tuple[int, bytes]]) -> Callable[[int], None]:
    def store(tid: int) -> None:
        for address, data in pieces:
            caller.store(tid, address, data)

    return store


def _copy(dev: Dev, segments: Sequence[Segment], given: bytes) -> tuple[list[int], Callable[[], bytes]]:
    """The status of each segment, and the job that copies those that may be; it gives what the caller is to get."""
    statuses: list[int] = []
    jobs: list[Callable[[], bytes]] = []
    pages, at = dev.fs.pages, 0
    for segment in segments:
        source, dest, length = segment.source, segment.dest, segment.length
        data = b""
        if not source.is_grant:
            data, at = given[at : at + length], at + length
        statuses.append(int(GntStatus.okay))
        if not length:
            continue
        try:
            here = _reach(dev, source, write=False) if source.is_grant else None
            there = _reach(dev, dest, write=True) if dest.is_grant else None
        except HypercallError as error:
            statuses[-1] = int(GntStatus.general_error if error.status is None else error.status)
            if not dest.is_grant:
                jobs.append(lambda length=length: bytes(length))  # type: ignore[misc]
            continue

        def copy(
            here: Page | None = here, there: Page | None = there, data: bytes = data, segment: Segment = segment
        ) -> bytes:
            start = segment.source.address
            piece = data if here is None else pages.current(here)[start : start + segment.length]
            if there is None:
                return piece
            pages.put(there, segment.dest.address, piece)
            return b""

        jobs.append(copy)
    return statuses, lambda: b"".join(job() for job in jobs)


def _run(dev: Dev, segments: Sequence[Segment]) -> Generator[Step, Any, list[int]]:
    """Copy a batch; the statuses."""
    given = b""
    if any(not s.source.is_grant and s.length for s in segments):
        given = yield Remotely(_fetch(segments))
    statuses, job = _copy(dev, segments, given)
    taken: bytes = yield OnThread(job)
    pieces, at = [], 0
    for segment, status in zip(segments, statuses, strict=True):
        if not segment.dest.is_grant:
            if status == GntStatus.okay and segment.length:
                pieces.append((segment.dest.address, taken[at : at + segment.length]))
            at += segment.length
    if pieces:
        yield Remotely(_store(pieces))
    return statuses


def grant_copy(dev: Dev, asked: Asked, request: GrantCopy) -> Steps:
    """Carry the ioctl out. In the twin the segments follow the head."""
    inline = asked.inline is not None
    size = _SEGMENT.size
    for first in range(0, request.count, BATCH):
        count = min(BATCH, request.count - first)
        at = first * size
        if inline:
            data = yield from asked.read(_HEAD + at, count * size)
        else:
            data = yield from asked.fetch(request.segments + at, count * size)
        segments = [Segment.of(data, place) for place in range(0, len(data), size)]
        for start, batch in _batches(segments):
            statuses = yield from _run(dev, batch)
            where = [at + (start + i) * size + _STATUS_AT for i in range(len(batch))]
            words = [(w, _STATUS.pack(s)) for w, s in zip(where, statuses, strict=True)]
            if inline:
                for w, word in words:
                    yield from asked.write(_HEAD + w, word)
            else:
                yield Remotely(_store([(request.segments + w, word) for w, word in words]))
    return 0
