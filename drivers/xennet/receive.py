"""What netback does with packets for a guest: read them from the TAP straight into the pages that the guest has posted.

A packet begins in the first posted page and goes on in the third: the second belongs to an extra slot, which a packet
that is segmented later needs, and that is not known before it has been read. A response stands in its request's slot.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from itertools import pairwise

from xenfs.abi.netif import RX, Gso, RxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel, Refused, Region
from xenfs.ring import BackRing, Entry
from xenfs.xenbus.loop import Gate
from xennet.counters import Counters
from xennet.headers import VNET_SIZE, rx_said
from xennet.pages import Pages
from xennet.transmit import Capture

_LARGEST = 17
"""Pages of the largest packet: 65535 bytes of IP and the Ethernet header."""
_BATCH = 64
_MORE, _EXTRA = int(RxFlag.more_data), int(RxFlag.extra_info)


class Receive:
    """One receive ring, from a TAP to a guest's pages."""

    def __init__(self, ring: BackRing, channel: Channel, pages: Pages, fd: int, counters: Counters) -> None:
        """`fd`: the TAP's file."""
        self._ring, self._channel, self._pages, self._fd, self._counters = ring, channel, pages, fd, counters
        self._posted: deque[tuple[int, int]] = deque()
        self._header = bytearray(VNET_SIZE)
        self.slots = _LARGEST + 1
        """Requests that the largest packet takes: 1 for a guest without scatter and gather."""
        self.capture: Capture | None = None
        self.gate: Gate | None = None
        self.starved: Callable[[], None] = lambda: None

    def posted(self) -> None:
        """The guest may have posted pages: listen to the TAP when there are enough."""
        assert self.gate is not None
        if self._refill():
            self.gate.open()

    def _refill(self) -> bool:
        while len(self._posted) < self.slots:
            taken = self._ring.take()
            if taken:
                self._counters.requests += len(taken)
                self._posted.extend(taken)
            elif not self._ring.request_event(self.slots - len(self._posted)):
                return False
        return True

    def work(self) -> None:
        """Read packets as long as there are some, and pages for them."""
        assert self.gate is not None
        responses: list[Entry] = []
        for _ in range(_BATCH):
            if len(self._posted) < self.slots and not self._refill():
                self.gate.shut()
                self.starved()
                break
            answered = self._one()
            if not answered:
                break
            responses += answered
        if responses:
            self._counters.responses += len(responses)
            self._ring.respond_many(responses)
            if self._ring.publish():
                self._counters.events_sent += 1
                self._channel.notify()
            self._counters.write()

    def _one(self) -> list[Entry]:
        """Read one packet; its responses, none when there was no packet."""
        posted = self._posted
        wanted = [posted[0], *(posted[n] for n in range(2, self.slots))] if self.slots > 1 else [posted[0]]
        pieces = [(ref, 0, PAGE_SIZE) for _, ref in wanted]
        regions: list[Region] = []
        views = self._pages.slices(pieces)
        try:
            if views is None:
                regions, views = self._pages.once(pieces, readonly=False)
                self._counters.grants_mapped += len(regions)
            size = os.readv(self._fd, [self._header, *views]) - VNET_SIZE
            return self._respond(size, views)
        except BlockingIOError:
            return []
        except Refused:
            self._counters.errors += 1
            number, _ = posted.popleft()
            return [(number, 0, 0, -1)]
        finally:
            views = None
            for region in regions:
                region.close()

    def _respond(self, size: int, views: list[memoryview]) -> list[Entry]:
        flags, kind, segment = rx_said(self._header)
        count = -(-size // PAGE_SIZE)
        first = min(size, PAGE_SIZE)
        if self.capture is not None:
            self.capture(_cut(views, size), True)
        number, _ = self._posted.popleft()
        flags |= (_MORE if count > 1 else 0) | (_EXTRA if kind else 0)
        answered: list[Entry] = [(number, 0, flags, first)]
        if kind:
            self._posted.popleft()
            answered.append(RX.response.unpack(Gso(segment, kind).emit()))
        elif count > 1:
            self._close_gap(count)
        left = size - first
        while left > 0:
            number, _ = self._posted.popleft()
            part = min(left, PAGE_SIZE)
            left -= part
            answered.append((number, 0, _MORE if left else 0, part))
        self._counters.units_out += 1
        self._counters.bytes_out += size
        return answered

    def _close_gap(self, count: int) -> None:
        """A packet of several pages that needs no extra slot: its pages move up by one."""
        refs = [ref for _, ref in list(self._posted)[:count]]
        for to, source in pairwise(refs):
            views = self._pages.slices([(to, 0, PAGE_SIZE)]), self._pages.slices([(source, 0, PAGE_SIZE)])
            if views[0] is None or views[1] is None:
                regions, mapped = self._pages.once([(to, 0, PAGE_SIZE), (source, 0, PAGE_SIZE)], readonly=False)
                mapped[0][:] = mapped[1]
                for region in regions:
                    region.close()
            else:
                views[0][0][:] = views[1][0]


def _cut(views: list[memoryview], size: int) -> list[memoryview]:
    """The part of the views that a packet fills."""
    found = []
    for view in views:
        if size <= 0:
            break
        found.append(view[:size])
        size -= len(view)
    return found
