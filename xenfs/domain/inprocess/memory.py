"""Memory straight on the model."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from xenfs.abi.grant_table import Copy, GntCopy, GntMap, GntStatus, MapGrantRef, Transfer, UnmapGrantRef
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
from xenfs.hypervisor.errors import GrantInUse, NotOwned

if TYPE_CHECKING:
    from xenfs.domain.inprocess.xen import InProcessDomain

W = TypeVar("W", bound=Wire)


class InProcessRegion:
    """Mapped pages with what has to be undone when they go."""

    def __init__(self, mapped: Mapped, undo: Callable[[InProcessRegion], None]) -> None:
        """Keep both."""
        self._mapped, self._undo = mapped, undo

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return self._mapped.view

    def close(self) -> None:
        """Unmap, then tell the machine; twice is fine."""
        if not self._mapped.closed:
            self._mapped.close()
            self._undo(self)

    def __enter__(self) -> memoryview:
        return self.view

    def __exit__(self, *_: object) -> None:
        self.close()


class InProcessMemory:
    """Implements domain.Memory."""

    def __init__(self, domain: InProcessDomain) -> None:
        """Begin with nothing mapped."""
        self._domain = domain
        self._regions: dict[InProcessRegion, list[int]] = {}

    def _each(self, count: int, make: Callable[[], int], undo: Callable[[int], object]) -> list[int]:
        """All of `count`, or none and the refusal."""
        done: list[int] = []
        try:
            done.extend(make() for _ in range(count))
        except Refused:
            for number in reversed(done):
                undo(number)
            raise
        return done

    def _each_answer(self, requests: Sequence[W]) -> list[W | Refused]:
        """Make every call; for each the request with its results, or its refusal. EBADF once the handle is closed."""
        answers: list[W | Refused] = []
        for request in requests:
            try:
                answers.append(self._domain.call(request))
            except Refused as error:
                if not self._domain.alive:
                    raise
                answers.append(error)
        return answers

    def _all(self, requests: Sequence[W]) -> list[W]:
        """Make every call, then raise the first refusal if there was one."""
        answers = self._each_answer(requests)
        _raise_first(a for a in answers if isinstance(a, Refused))
        return [a for a in answers if not isinstance(a, Refused)]

    def alloc(self, count: int = 1) -> list[int]:
        """See Memory."""
        call = self._domain.call
        return self._each(count, lambda: call(AllocFrame()).frame, lambda f: call(FreeFrame(frame=f)))

    def free(self, frames: Sequence[int], *, defer: bool = False) -> None:
        """See Memory."""
        self._all([FreeFrame(frame=frame, flags=int(defer)) for frame in frames])

    def view(self, frames: Sequence[int], *, readonly: bool = False) -> InProcessRegion:
        """See Memory."""
        domain = self._domain
        with domain.xen.lock:
            if not domain.alive:
                raise Refused(errno.EBADF, f"domain {domain.domid}: this handle is closed")
            owned = domain.xen.machine.state.domain(domain.domid).frames
            for frame in frames:
                if frame not in owned:
                    error = NotOwned(f"frame {frame}", f"domain {domain.domid} does not own it")
                    raise Refused(error.errno, str(error), error.status)
            return self._region(domain.xen.arena.map(frames, readonly=readonly), [])

    def _region(self, mapped: Mapped, handles: list[int]) -> InProcessRegion:
        region = InProcessRegion(mapped, self._unmapped)
        self._regions[region] = handles
        return region

    def _unmapped(self, region: InProcessRegion) -> None:
        for number in self._regions.pop(region):
            if self._domain.alive:  # else the machine unmapped it already
                self._domain.call(UnmapGrantRef(handle=number), world=True)

    def grant(self, frames: Sequence[int], domid: int, *, readonly: bool = False) -> list[int]:
        """See Memory."""
        call, flags, rest = self._domain.call, 4 if readonly else 0, iter(frames)
        return self._each(
            len(frames),
            lambda: call(GrantAccess(frame=next(rest), dom=domid, flags=flags)).ref,
            lambda ref: call(EndAccess(ref=ref, flags=1)),
        )

    def end_access(self, refs: Sequence[int], *, defer: bool = False) -> list[int]:
        """See Memory."""
        answers = self._each_answer([EndAccess(ref=ref, flags=int(defer)) for ref in refs])
        _raise_first(a for a in answers if isinstance(a, Refused) and a.errno != GrantInUse.errno)
        return [ref for ref, answer in zip(refs, answers, strict=True) if isinstance(answer, Refused)]

    def map(self, domid: int, refs: Sequence[int], *, readonly: bool = False) -> InProcessRegion:
        """See Memory."""
        domain, rest = self._domain, iter(refs)
        flags = int(GntMap.host_map | (GntMap.readonly if readonly else 0))
        with domain.xen.lock:
            handles = self._each(
                len(refs),
                lambda: domain.call(MapGrantRef(dom=domid, ref=next(rest), flags=flags), world=True).handle,
                lambda number: domain.call(UnmapGrantRef(handle=number), world=True),
            )
            maps = domain.xen.machine.state.domain(domain.domid).maps
            frames = [maps[number].frame.number for number in handles]
            return self._region(domain.xen.arena.map(frames, readonly=readonly), handles)

    def _statuses(self, requests: Sequence[Wire]) -> list[GntStatus]:
        return [_status(answer) for answer in self._each_answer(requests)]

    def copy(self, segments: Sequence[CopySegment]) -> list[GntStatus]:
        """See Memory."""
        return self._statuses([_copy_request(s) for s in segments])

    def accept_transfer(self, domid: int, count: int = 1) -> list[int]:
        """See Memory."""
        call = self._domain.call
        return self._each(count, lambda: call(AcceptTransfer(dom=domid)).ref, lambda ref: call(EndTransfer(ref=ref)))

    def end_transfer(self, refs: Sequence[int]) -> list[int | None]:
        """See Memory."""
        answers = self._all([EndTransfer(ref=ref) for ref in refs])
        return [a.frame if a.completed else None for a in answers]

    def transfer(self, frames: Sequence[int], domid: int, refs: Sequence[int]) -> list[GntStatus]:
        """See Memory."""
        pairs = zip(frames, refs, strict=True)
        return self._statuses([Transfer(mfn=frame, domid=domid, ref=ref) for frame, ref in pairs])

    def increase_reservation(self, count: int = 1) -> list[int]:
        """See Memory."""
        call = self._domain.call
        return self._each(
            count, lambda: call(IncreaseReservation()).frame, lambda f: call(DecreaseReservation(frame=f))
        )

    def decrease_reservation(self, frames: Sequence[int]) -> None:
        """See Memory."""
        self._all([DecreaseReservation(frame=frame) for frame in frames])

    def give_flips(
        self, frames: Sequence[int], domid: int, refs: Sequence[int], more: int = 0
    ) -> tuple[list[GntStatus], list[int]]:
        """See Memory."""
        with self._domain.xen.lock:
            said = self.transfer(frames, domid, refs)
            new = self._each_answer([IncreaseReservation()] * more)
        return said, [answer.frame for answer in new if not isinstance(answer, Refused)]

    def take_flips(
        self, refs: Sequence[int], back: Sequence[int], domid: int, offers: int = 0
    ) -> tuple[list[int | None], list[int]]:
        """See Memory."""
        with self._domain.xen.lock:
            given = self._each_answer([DecreaseReservation(frame=frame) for frame in back])
            offered = self._each_answer([AcceptTransfer(dom=domid)] * offers)
            ended = self._each_answer([EndTransfer(ref=ref) for ref in refs])
        _raise_first(answer for answer in (*given, *ended) if isinstance(answer, Refused))
        frames = [a.frame if a.completed else None for a in ended if not isinstance(a, Refused)]
        return frames, [a.ref for a in offered if not isinstance(a, Refused)]

    def read_frames(self, frames: Sequence[int], into: Sequence[memoryview]) -> None:
        """See Memory."""
        with self.view(frames, readonly=True) as view:
            for number, page in enumerate(into):
                page[:] = view[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]

    def write_frames(self, frames: Sequence[int], data: memoryview) -> None:
        """See Memory."""
        with self.view(frames) as view:
            view[:] = data[: len(view)]

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


def _raise_first(refusals: Iterable[Refused]) -> None:
    for refusal in refusals:
        raise refusal


def _status(answer: Wire | Refused) -> GntStatus:
    if not isinstance(answer, Refused):
        return GntStatus.okay
    return GntStatus.general_error if answer.status is None else answer.status


def _copy_request(segment: CopySegment) -> Copy:
    flags = GntCopy(0)
    if segment.source_domid is not None:
        flags |= GntCopy.source_gref
    if segment.dest_domid is not None:
        flags |= GntCopy.dest_gref
    return Copy(
        source=segment.source,
        source_domid=DOMID_SELF if segment.source_domid is None else segment.source_domid,
        source_offset=segment.source_offset,
        dest=segment.dest,
        dest_domid=DOMID_SELF if segment.dest_domid is None else segment.dest_domid,
        dest_offset=segment.dest_offset,
        len=segment.length,
        flags=int(flags),
    )
