"""What netfront does with packets for the guest: post granted pages, and write what comes in them to the TAP."""

from __future__ import annotations

import os
from collections import deque

from xenfs.abi.netif import EXTRA_FLAG_MORE, GSO, NR_SLOTS_MIN, RX, ExtraType, RxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel
from xenfs.ring import Entry, FrontRing
from xenfs.xenbus import PeerProtocolError
from xennet.counters import Counters
from xennet.headers import HEADERS_MAX, parse, vnet

_MORE, _EXTRA = int(RxFlag.more_data), int(RxFlag.extra_info)
_BLANK, _VALID = int(RxFlag.csum_blank), int(RxFlag.data_validated)


class GuestReceive:
    """One receive ring, from the backend to a TAP."""

    def __init__(
        self, ring: FrontRing, channel: Channel, view: memoryview, refs: list[int], fd: int, counters: Counters
    ) -> None:
        """`view`: the pages that `refs` grant; `fd`: the TAP's file."""
        self._ring, self._channel, self._view, self._refs, self._fd = ring, channel, view, refs, fd
        self._counters = counters
        self._free = deque(range(len(refs)))
        self._order: deque[int] = deque()
        self._rest: list[Entry] = []

    def post(self) -> None:
        """Give the backend all pages that are free."""
        count = min(len(self._free), self._ring.free)
        numbers = [self._free.popleft() for _ in range(count)]
        if numbers:
            self._order.extend(numbers)
            self._ring.push_many([(number, self._refs[number]) for number in numbers])
            self._counters.requests += count
            if self._ring.publish():
                self._counters.events_sent += 1
                self._channel.notify()

    def work(self) -> None:
        """Write what has come to the TAP. Raises PeerProtocolError and PeerRingError."""
        while True:
            taken = self._ring.take()
            if taken:
                self._counters.responses += len(taken)
                self._packets([*self._rest, *taken])
                self.post()
            elif not self._ring.final_check():
                break
        self._counters.write()

    def _packets(self, taken: list[Entry]) -> None:
        at, end = 0, len(taken)
        while at < end:
            following = self._extent(taken, at, end)
            if following is None:
                break
            self._packet(taken[at:following])
            at = following
        self._rest = taken[at:]

    def _extent(self, taken: list[Entry], at: int, end: int) -> int | None:
        """Where the packet ends that begins here; None when the rest of it is still to come."""
        flags, count = taken[at][2], 1
        at += 1
        extra = bool(flags & _EXTRA)
        while extra:
            if at >= end:
                return None
            extra = bool(GSO.unpack_from(RX.response.pack(*taken[at]))[1] & EXTRA_FLAG_MORE)
            at += 1
        while flags & _MORE:
            if at >= end:
                return None
            flags, count = taken[at][2], count + 1
            at += 1
            if count > NR_SLOTS_MIN + 1:
                raise PeerProtocolError(f"{self._ring.name}: a packet of more than {NR_SLOTS_MIN} slots")
        return at

    def _packet(self, slots: list[Entry]) -> None:
        number, offset, flags, status = slots[0]
        views, at = [self._piece(number, offset, status)], 1
        kind = size = 0
        if flags & _EXTRA:
            kind, size, at = self._extras(slots)
        for number, offset, _, status in slots[at:]:
            views.append(self._piece(number, offset, status))
        if any(view is None for view in views):
            self._counters.errors += 1
            return
        self._write([view for view in views if view is not None], flags, kind, size)

    def _piece(self, number: int, offset: int, status: int) -> memoryview | None:
        """The bytes of one slot; its page is free from now on, for the next posting, which comes after the writing."""
        expected = self._order.popleft()
        if number != expected:
            raise PeerProtocolError(f"{self._ring.name}: response has incorrect id {number}, not {expected}")
        self._free.append(number)
        if status < 0:
            return None
        if offset + status > PAGE_SIZE:
            raise PeerProtocolError(f"{self._ring.name}: offset {offset} + size {status} > {PAGE_SIZE}")
        start = number * PAGE_SIZE + offset
        return self._view[start : start + status]

    def _extras(self, slots: list[Entry]) -> tuple[int, int, int]:
        """GSO type and size, and where the data goes on. The pages of these slots are not used."""
        kind = size = 0
        at, more = 1, EXTRA_FLAG_MORE
        while more & EXTRA_FLAG_MORE:
            what, more, segment, gso, _ = GSO.unpack_from(RX.response.pack(*slots[at]))
            at += 1
            self._free.append(self._order.popleft())
            if what == ExtraType.gso:
                if not segment or gso not in (1, 2):
                    raise PeerProtocolError(f"{self._ring.name}: GSO of type {gso} with size {segment}")
                kind, size = gso, segment
        return kind, size, at

    def _write(self, views: list[memoryview], flags: int, kind: int, size: int) -> None:
        found = parse(bytes(views[0][:HEADERS_MAX]))
        blank, valid = bool(flags & _BLANK) or bool(kind), bool(flags & _VALID)
        header = found and vnet(found, blank=blank, valid=valid, gso_type=kind, gso_size=size)
        if not header:
            self._counters.drop_malformed += 1
            return
        try:
            self._counters.bytes_in += os.writev(self._fd, [header, *views]) - len(header)
            self._counters.units_in += 1
        except OSError:
            self._counters.drop_other += 1
