"""What netfront does with packets for the guest: post granted pages, and write what comes in them to the TAP.

A response stands in its request's slot, so pages are used in the order in which they were posted, and posted in a
circle. What has come is compared with that order as bytes where it can be.
"""

from __future__ import annotations

import os

from xenfs.abi.netif import EXTRA_FLAG_MORE, GSO, NR_SLOTS_MIN, RX, ExtraType, GsoType, RxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel
from xenfs.ring import FrontRing
from xenfs.xenbus import PeerProtocolError
from xenfs.xenbus.counters import Counters
from xennet.headers import HEADERS_MAX, parse, vnet

_MORE, _EXTRA = int(RxFlag.more_data), int(RxFlag.extra_info)
_BLANK, _VALID = int(RxFlag.csum_blank), int(RxFlag.data_validated)
_SIZE = RX.entry_size
_BATCH = 4 * NR_SLOTS_MIN
"""Slots after whose packets their pages are posted again, so that the backend need not wait for all of them."""
_UNPACK = RX.response.unpack_from


class GuestReceive:
    """One receive ring, from the backend to a TAP."""

    def __init__(
        self, ring: FrontRing, channel: Channel, view: memoryview, refs: list[int], fd: int, counters: Counters
    ) -> None:
        """`view`: the pages that `refs` grant, as many as the ring has slots at most; `fd`: the TAP's file."""
        self._ring, self._channel, self._view, self._fd = ring, channel, view, fd
        self._counters, self._count = counters, len(refs)
        self._requests = b"".join(RX.request.pack(number, ref) for number, ref in enumerate(refs)) * 2
        self._whole = b"".join(RX.response.pack(number, 0, _MORE, PAGE_SIZE) for number in range(self._count)) * 2
        self._next = 0
        self._posted = 0
        self._rest = b""

    def post(self) -> None:
        """Give the backend all pages that are free."""
        count = self._count - self._ring.in_flight - len(self._rest) // _SIZE
        if count <= 0:
            return
        start = self._posted * _SIZE
        self._ring.push_bytes(self._requests[start : start + count * _SIZE])
        self._posted = (self._posted + count) % self._count
        self._counters.requests += count
        if self._ring.publish():
            self._counters.events_sent += 1
            self._channel.notify()

    def work(self) -> None:
        """Write what has come to the TAP. Raises PeerProtocolError and PeerRingError."""
        while True:
            data = self._ring.take_bytes(_BATCH)
            if data:
                self._counters.responses += len(data) // _SIZE
                self._packets(self._rest + data)
                self.post()
            elif not self._ring.final_check():
                break
        self._counters.write()

    def _packets(self, data: bytes) -> None:
        flags = memoryview(data).cast("H")[2::4].tolist()
        at, end = 0, len(flags)
        while at < end:
            following = self._extent(data, flags, at, end)
            if following is None:
                break
            self._packet(data, flags[at], at, following)
            at = following
        self._rest = data[at * _SIZE :]

    def _extent(self, data: bytes, flags: list[int], at: int, end: int) -> int | None:
        """Where the packet ends that begins here; None when the rest of it is still to come."""
        said, slots = flags[at], 1
        at += 1
        extra = said & _EXTRA
        while extra:
            if at >= end:
                return None
            extra = data[at * _SIZE + 1] & EXTRA_FLAG_MORE
            at += 1
        while said & _MORE:
            if slots > NR_SLOTS_MIN:
                raise PeerProtocolError(f"{self._ring.name}: a packet of more than {NR_SLOTS_MIN} slots")
            if at >= end:
                return None
            said = flags[at]
            at += 1
            slots += 1
        return at

    def _packet(self, data: bytes, flags: int, at: int, following: int) -> None:
        kind = size = 0
        views: list[memoryview] | None = self._pieces(data, at, at + 1)
        at += 1
        if flags & _EXTRA:
            kind, size, at = self._extras(data, at)
        if at < following:
            more = self._pieces(data, at, following)
            views = None if views is None or more is None else views + more
        if views is None:
            self._counters.errors += 1
        else:
            self._write(views, flags, kind, size)

    def _pieces(self, data: bytes, at: int, end: int) -> list[memoryview] | None:
        """The bytes of slots that follow each other; None when the backend says that one is not there. Their pages are
        free from now on, for the next posting, which comes after the writing."""
        views: list[memoryview] = []
        page, whole = self._next, end - at - 1
        if whole and page + whole < self._count:
            start = page * _SIZE
            if data[at * _SIZE : (end - 1) * _SIZE] == self._whole[start : start + whole * _SIZE]:
                number, offset, _, status = _UNPACK(data, (end - 1) * _SIZE)
                if number == page + whole and not offset and 0 <= status <= PAGE_SIZE:
                    self._next = (number + 1) % self._count
                    return [self._view[page * PAGE_SIZE : number * PAGE_SIZE + status]]
        fine = True
        for place in range(at, end):
            number, offset, _, status = _UNPACK(data, place * _SIZE)
            if number != self._next:
                raise PeerProtocolError(
                    f"{self._ring.name}: response has incorrect id {number}, not {self._next} of its request"
                )
            self._next = (number + 1) % self._count
            if status < 0:
                fine = False
                continue
            if offset + status > PAGE_SIZE:
                raise PeerProtocolError(f"{self._ring.name}: offset {offset} + size {status} > {PAGE_SIZE}")
            start = number * PAGE_SIZE + offset
            views.append(self._view[start : start + status])
        return views if fine else None

    def _extras(self, data: bytes, at: int) -> tuple[int, int, int]:
        """GSO type and size, and where the data goes on. The pages of these slots are not used."""
        kind = size = 0
        more = EXTRA_FLAG_MORE
        while more & EXTRA_FLAG_MORE:
            what, more, segment, gso, _ = GSO.unpack_from(data, at * _SIZE)
            at += 1
            self._next = (self._next + 1) % self._count
            if what == ExtraType.gso:
                if not segment or gso not in (GsoType.tcpv4, GsoType.tcpv6):
                    raise PeerProtocolError(f"{self._ring.name}: GSO of type {gso} with size {segment}")
                kind, size = gso, segment
        return kind, size, at

    def _write(self, views: list[memoryview], flags: int, kind: int, size: int) -> None:
        found = parse(bytes(views[0][:HEADERS_MAX]))
        blank, valid = bool(flags & _BLANK) or bool(kind), bool(flags & _VALID)
        header = None
        if found is not None:
            header = vnet(found, blank=blank, valid=valid, gso_type=kind, gso_size=size)
        if header is None:
            self._counters.drop_malformed += 1
            return
        try:
            self._counters.bytes_in += os.writev(self._fd, [header, *views]) - len(header)
            self._counters.units_in += 1
        except OSError:
            self._counters.drop_other += 1


assert RX.request.size == RX.response.size == RX.entry_size == 8
