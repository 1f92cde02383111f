"""Memory through the files of a domain: frames/<mfn> is a view, foreign/<domid>/<gref> a mapping of a grant.

Each page is opened by its name, mapped, and its descriptor closed again; the mapping alone keeps the grant in use. A
batch of hypercalls is one write, of which all are tried: where the Protocol says that a call does all or nothing, what
was done is undone; otherwise the first refusal is raised and what the others did stands.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from xenfs.abi.grant_table import Copy, GntCopy, GntStatus, MapGrantRef, QuerySize, Transfer
from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF, PAGE_SIZE
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    DecreaseReservation,
    EndAccess,
    EndTransfer,
    FreeFrame,
    GrantAccess,
    IncreaseReservation,
    NameRing,
    UnnameRing,
)
from xenfs.domain.errors import Refused
from xenfs.domain.mapping import Mapped
from xenfs.domain.memory import CopySegment
from xenfs.domain.mounted import text
from xenfs.domain.mounted.errors import MISSING, refusal
from xenfs.domain.mounted.multicall import Multicall

if TYPE_CHECKING:
    from xenfs.domain.mounted.xen import MountedDomain

W = TypeVar("W", bound=Wire)
_ENTRIES_PER_FRAME = 512
_AT_ONCE = 256
"""Pages moved by one system call, of the kernel's 1024 pieces at most."""
_STATUSES = MappingProxyType({errno.EACCES: GntStatus.general_error, errno.ENOSPC: GntStatus.no_space})
"""What opening a grant is refused with has no words for GNTST, which these are."""


class MountedRegion:
    """Mapped pages, struck off the domain's list when they go."""

    def __init__(self, mapped: Mapped, regions: set[MountedRegion]) -> None:
        """Enter the list."""
        self._mapped, self._regions = mapped, regions
        regions.add(self)

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return self._mapped.view

    def close(self) -> None:
        """Unmap, which ends the use of a grant; twice is fine."""
        self._regions.discard(self)
        self._mapped.close()

    def __enter__(self) -> memoryview:
        return self.view

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pages:
    """Pages by their names in one directory, each open only while it is being mapped; to be gone through once."""

    def __init__(self, folder: int, names: Sequence[str], flags: int, missing: Callable[[str], Refused]) -> None:
        """Take over `folder`, the directory's descriptor; `missing` makes the refusal for a name that is not there."""
        self._folder, self._names, self._flags, self._missing = folder, names, flags | os.O_CLOEXEC, missing
        self._fd = -1

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for name in self._names:
            self._fd = self._open(name)
            yield self._fd, 0
            self._close()

    def _open(self, name: str) -> int:
        try:
            return os.open(name, self._flags, dir_fd=self._folder)
        except OSError as error:
            raise self._missing(name) if error.errno in MISSING else error from None

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> _Pages:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)
        self._close()


class MountedMemory:
    """Implements domain.Memory."""

    def __init__(self, domain: MountedDomain) -> None:
        """Begin with nothing mapped."""
        self._domain = domain
        self._regions: set[MountedRegion] = set()
        self._multicall = Multicall(domain)
        self._mem = -1

    def _each(self, requests: Sequence[W], undo: Callable[[W], Wire]) -> list[W]:
        """All of them, or none and the first refusal."""
        answers = self._domain.batch(requests)
        done = [answer for answer in answers if not isinstance(answer, Refused)]
        if len(done) < len(answers):
            self._domain.batch([undo(answer) for answer in reversed(done)])
            self._all(answers)
        return done

    def _all(self, answers: Sequence[W | Refused]) -> list[W]:
        for answer in answers:
            if isinstance(answer, Refused):
                raise answer
        return [answer for answer in answers if not isinstance(answer, Refused)]

    def _statuses(self, requests: Sequence[W]) -> list[GntStatus]:
        return [
            (GntStatus.general_error if answer.status is None else answer.status)
            if isinstance(answer, Refused)
            else GntStatus.okay
            for answer in self._domain.batch(requests)
        ]

    def alloc(self, count: int = 1) -> list[int]:
        """See Memory."""
        return [a.frame for a in self._each([AllocFrame()] * count, lambda a: FreeFrame(frame=a.frame))]

    def free(self, frames: Sequence[int], *, defer: bool = False) -> None:
        """See Memory."""
        self._all(self._domain.batch([FreeFrame(frame=frame, flags=int(defer)) for frame in frames]))

    def _map(
        self, directory: str, names: Sequence[str], nowhere: str, missing: Callable[[str], Refused], *, readonly: bool
    ) -> MountedRegion:
        try:
            folder = self._domain.open(directory, os.O_PATH | os.O_DIRECTORY)
            with _Pages(folder, names, os.O_RDONLY if readonly else os.O_RDWR, missing) as pages:
                return MountedRegion(Mapped(pages, readonly=readonly), self._regions)
        except OSError as error:
            if error.errno == errno.EFAULT:  # a page could not be touched: it was taken away, or all of them were
                self._domain.check()
            if error.errno in MISSING and not isinstance(error, Refused):
                raise Refused(errno.ESRCH, nowhere, GntStatus.bad_domain) from None
            status = _STATUSES.get(error.errno or 0)
            raise refusal(error, f"{self._domain}: {directory}", status) from error

    def view(self, frames: Sequence[int], *, readonly: bool = False) -> MountedRegion:
        """See Memory."""

        def missing(frame: str) -> Refused:
            return Refused(errno.EINVAL, f"frame {frame}: {self._domain} does not own it", GntStatus.bad_page)

        names = [f"{frame:d}" for frame in frames]
        return self._map("frames", names, f"{self._domain}: it has been destroyed", missing, readonly=readonly)

    def grant(self, frames: Sequence[int], domid: int, *, readonly: bool = False) -> list[int]:
        """See Memory."""
        flags = 4 if readonly else 0
        requests = [GrantAccess(frame=frame, dom=domid, flags=flags) for frame in frames]
        return [a.ref for a in self._each(requests, lambda a: EndAccess(ref=a.ref, flags=1))]

    def end_access(self, refs: Sequence[int], *, defer: bool = False) -> list[int]:
        """See Memory."""
        answers = self._domain.batch([EndAccess(ref=ref, flags=int(defer)) for ref in refs])
        busy = [isinstance(answer, Refused) and answer.errno == errno.EBUSY for answer in answers]
        self._all([answer for answer, is_busy in zip(answers, busy, strict=True) if not is_busy])
        return [ref for ref, is_busy in zip(refs, busy, strict=True) if is_busy]

    def map(self, domid: int, refs: Sequence[int], *, readonly: bool = False) -> MountedRegion:
        """See Memory."""
        for ref in refs:
            text.emit(MapGrantRef(dom=domid, ref=ref))  # refuses what fits no field
        granter = self._domain.domid if domid == DOMID_SELF else domid

        def missing(ref: str) -> Refused:
            where = f"grant {ref} of domain {granter}"
            # the table of another domain cannot be asked for; all are as large
            if int(ref) >= self._domain.call(QuerySize()).max_nr_frames * _ENTRIES_PER_FRAME:
                return Refused(errno.ENOENT, f"{where}: the table ends before", GntStatus.bad_gntref)
            return Refused(errno.EACCES, f"{where}: the entry is not in use", GntStatus.general_error)

        names, nowhere = [f"{ref:d}" for ref in refs], f"domain {granter}: there is no such domain"
        return self._map(f"foreign/{granter}", names, nowhere, missing, readonly=readonly)

    def copy(self, segments: Sequence[CopySegment]) -> list[GntStatus]:
        """See Memory."""
        return self._statuses([_copy_request(s) for s in segments])

    def accept_transfer(self, domid: int, count: int = 1) -> list[int]:
        """See Memory."""
        requests = [AcceptTransfer(dom=domid)] * count
        return [a.ref for a in self._each(requests, lambda a: EndTransfer(ref=a.ref))]

    def end_transfer(self, refs: Sequence[int]) -> list[int | None]:
        """See Memory."""
        answers = self._all(self._domain.batch([EndTransfer(ref=ref) for ref in refs]))
        return [a.frame if a.completed else None for a in answers]

    def transfer(self, frames: Sequence[int], domid: int, refs: Sequence[int]) -> list[GntStatus]:
        """See Memory."""
        pairs = zip(frames, refs, strict=True)
        return self._statuses([Transfer(mfn=frame, domid=domid, ref=ref) for frame, ref in pairs])

    def increase_reservation(self, count: int = 1) -> list[int]:
        """See Memory."""
        requests = [IncreaseReservation()] * count
        return [a.frame for a in self._each(requests, lambda a: DecreaseReservation(frame=a.frame))]

    def decrease_reservation(self, frames: Sequence[int]) -> None:
        """See Memory."""
        self._all(self._domain.batch([DecreaseReservation(frame=frame) for frame in frames]))

    def give_flips(
        self, frames: Sequence[int], domid: int, refs: Sequence[int], more: int = 0
    ) -> tuple[list[GntStatus], list[int]]:
        """See Memory."""
        rows = [(frame, domid, ref, 0) for frame, ref in zip(frames, refs, strict=True)]
        flipped, new = self._multicall((Transfer, rows), (IncreaseReservation, [(0,)] * more))
        said = [GntStatus(row[-1]) for row in flipped]
        return said, [frame for result, frame in new if not result]

    def take_flips(
        self, refs: Sequence[int], back: Sequence[int], domid: int, offers: int = 0
    ) -> tuple[list[int | None], list[int]]:
        """See Memory."""
        given, offered, ended = self._multicall(
            (DecreaseReservation, [(frame,) for frame in back]),
            (AcceptTransfer, [(domid, 0)] * offers),
            (EndTransfer, [(ref, 0, 0) for ref in refs]),
        )
        for name, rows in (("decrease_reservation frame", given), ("end_transfer ref", ended)):
            for result, number, *_ in rows:
                if result:
                    raise Refused(-result, f"{self._domain}: {name}={number}: {os.strerror(-result)}")
        frames = [frame if completed else None for _, _, completed, frame in ended]
        return frames, [ref for result, _, ref in offered if not result]

    def read_frames(self, frames: Sequence[int], into: Sequence[memoryview]) -> None:
        """See Memory."""
        for first, last in _runs(frames):
            self._move_bytes(frames[first:last], list(into[first:last]), os.preadv)

    def write_frames(self, frames: Sequence[int], data: memoryview) -> None:
        """See Memory."""
        for first, last in _runs(frames):
            self._move_bytes(frames[first:last], [data[first * PAGE_SIZE : last * PAGE_SIZE]], os.pwritev)

    def _move_bytes(
        self, run: Sequence[int], views: list[memoryview], move: Callable[[int, list[memoryview], int], int]
    ) -> None:
        """Through `mem`, in which frames that follow each other lie one behind the other."""
        try:
            if self._mem < 0:
                self._mem = self._domain.open("mem", os.O_RDWR)
            if move(self._mem, views, run[0] * PAGE_SIZE) == len(run) * PAGE_SIZE:
                return
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise refusal(error, f"{self._domain}: mem") from error
        what = f"frames {run[0]} to {run[-1]}: {self._domain} does not own them all"
        raise Refused(errno.EINVAL, what, GntStatus.bad_page)

    def name_ring(self, name: str, frame: int) -> None:
        """See Memory."""
        self._domain.call(NameRing(name=name, frame=frame))

    def unname_ring(self, name: str) -> None:
        """See Memory."""
        self._domain.call(UnnameRing(name=name))

    def close(self) -> None:
        """Unmap every region."""
        for region in list(self._regions):
            region.close()
        self._multicall.close()
        fd, self._mem = self._mem, -1
        if fd >= 0:
            with suppress(OSError):  # as in Multicall
                os.close(fd)


def _runs(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Which of the frames follow each other, and fit one call: from the first place to behind the last."""
    first = 0
    for place in range(1, len(frames) + 1):
        if place == len(frames) or frames[place] != frames[place - 1] + 1 or place - first == _AT_ONCE:
            yield first, place
            first = place


def _copy_request(segment: CopySegment) -> Copy:
    sides = [(segment.source_domid, GntCopy.source_gref), (segment.dest_domid, GntCopy.dest_gref)]
    return Copy(
        source=segment.source,
        source_domid=DOMID_SELF if segment.source_domid is None else segment.source_domid,
        source_offset=segment.source_offset,
        dest=segment.dest,
        dest_domid=DOMID_SELF if segment.dest_domid is None else segment.dest_domid,
        dest_offset=segment.dest_offset,
        len=segment.length,
        flags=sum(int(flag) for domid, flag in sides if domid is not None),
    )
