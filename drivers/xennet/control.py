"""The control ring, backend's end: grants that stay mapped. Hashing is not offered.

To map a page takes a hundred microseconds, and a guest wants hundreds of them mapped. So that is done a few at a time,
between packets, and answered when it has been done; a packet whose pages are not mapped yet has them mapped for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from xenfs.abi.netif import CTRL, MAPPING, MAPPING_READONLY, CtrlStatus, CtrlType
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel, Memory, Refused
from xenfs.ring import BackRing
from xennet.pages import LIMIT, Pages

_TABLE = PAGE_SIZE // MAPPING.size
_AT_ONCE = 16
"""Pages mapped in one go."""
Entry = tuple[int, int]
"""A grant, and its flags."""


@dataclass(slots=True)
class Job:
    """A request that is being carried out: the grants that are still to be mapped, and those that are."""

    number: int
    kind: int
    table: int
    left: deque[Entry]
    all: list[Entry]
    mapped: list[int] = field(default_factory=list)


class Control:
    """One control ring."""

    def __init__(
        self,
        ring: BackRing,
        channel: Channel,
        pages: Pages,
        memory: Memory,
        domid: int,
        later: Callable[[], None],
    ) -> None:
        """`pages`: where mappings are kept; `domid`: the frontend's; `later` has `go_on` called, after other things."""
        self._ring, self._channel, self._pages = ring, channel, pages
        self._memory, self._domid, self._later = memory, domid, later
        self._jobs: deque[Job] = deque()
        self.closed = False

    def work(self) -> None:
        """Take what is asked. Raises PeerRingError."""
        while True:
            for number, kind, first, second, third in self._ring.take():
                self._take(number, kind, first, second, third)
            if not self._ring.final_check():
                break

    def _take(self, number: int, kind: int, first: int, second: int, third: int) -> None:
        if kind == CtrlType.get_gref_mapping_size:
            self._respond(number, kind, CtrlStatus.success, LIMIT)
        elif kind in (CtrlType.add_gref_mapping, CtrlType.del_gref_mapping):
            entries = self._entries(first, second, third)
            if entries is None:
                self._respond(number, kind, CtrlStatus.invalid_parameter)
                return
            self._jobs.append(Job(number, kind, first, deque(entries), entries))
            if len(self._jobs) == 1:
                self._later()
        else:
            self._respond(number, kind, CtrlStatus.not_supported)

    def _respond(self, number: int, kind: int, status: CtrlStatus, data: int = 0) -> None:
        self._ring.respond(number, kind, int(status), data)
        if self._ring.publish():
            self._channel.notify()

    def _entries(self, table: int, count: int, zero: int) -> list[Entry] | None:
        """A copy of a table, which is a page with `count` entries; None when there is no such."""
        if zero or not 0 < count <= _TABLE:
            return None
        try:
            region = self._memory.map(self._domid, [table], readonly=True)
        except Refused:
            return None
        with region as view:
            return [(ref, flags) for ref, flags, _ in MAPPING.iter_unpack(bytes(view[: count * MAPPING.size]))]

    def go_on(self) -> None:
        """Do a little of what there is to do. Raises PeerRingError."""
        if self.closed or not self._jobs:
            return
        job = self._jobs[0]
        status = self._step(job)
        if status is not None:
            self._jobs.popleft()
            self._finish(job, status)
        if self._jobs:
            self._later()

    def _step(self, job: Job) -> CtrlStatus | None:
        """How the job ended; None when it has not."""
        refs = [ref for ref, _ in job.all]
        if job.kind == CtrlType.del_gref_mapping:
            if not all(self._pages.knows(ref) for ref in refs):
                return CtrlStatus.invalid_parameter
            self._pages.remove(refs)
            return CtrlStatus.success
        if not job.mapped:
            if len(set(refs)) < len(refs) or {flags for _, flags in job.all} - {0, MAPPING_READONLY}:
                return CtrlStatus.invalid_parameter
            if any(self._pages.knows(ref) for ref in refs):
                return CtrlStatus.invalid_parameter
            if len(self._pages) + len(refs) > LIMIT:
                return CtrlStatus.buffer_overflow
        return self._map_some(job)

    def _map_some(self, job: Job) -> CtrlStatus | None:
        flags, some = job.left[0][1], list[int]()
        while job.left and job.left[0][1] == flags and len(some) < _AT_ONCE:
            some.append(job.left.popleft()[0])
        try:
            self._pages.add(some, readonly=flags == MAPPING_READONLY)
        except Refused:
            self._pages.remove(job.mapped)
            return CtrlStatus.invalid_parameter
        job.mapped += some
        return None if job.left else CtrlStatus.success

    def _finish(self, job: Job, status: CtrlStatus) -> None:
        """Say in the table and in the response how it went."""
        try:
            with self._memory.map(self._domid, [job.table]) as view:
                for number, (ref, flags) in enumerate(job.all):
                    MAPPING.pack_into(view, number * MAPPING.size, ref, flags, int(status))
        except Refused:
            pass  # granted read-only, or no more: then only the response says it
        self._respond(job.number, job.kind, status)

    def close(self) -> None:
        """Do nothing more."""
        self.closed = True
        self._jobs.clear()


assert CTRL.response.size <= CTRL.entry_size
