"""What netback does with packets for a guest: read them from the TAP straight into the pages that the guest has posted.

A packet begins in the first posted page and goes on in the third: the second belongs to an extra slot, which a packet
that is segmented later needs, and that is not known before it has been read. A response stands in its request's slot.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise

from xenfs.abi.netif import GSO, RX, ExtraType, RxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel, Refused, Region
from xenfs.ring import BackRing
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.grants import cut
from xenfs.xenbus.loop import Gate
from xennet.headers import VNET_SIZE, rx_said
from xennet.pages import Pages
from xennet.posted import Posted
from xennet.tap import unread
from xennet.transmit import Capture

LARGEST = 17
"""Pages of the largest packet: 65535 bytes of IP and the Ethernet header."""
_TURN = 64
"""Packets read before other things get their turn."""
_BATCH = 72
"""Slots after which answers are published, so that the guest goes on while the next packets are being read."""
_MAKE_DO_SECONDS = 0.03
_MORE, _EXTRA = int(RxFlag.more_data), int(RxFlag.extra_info)
_ERROR = -1
_PACK = RX.response.pack
Later = Callable[[float, Callable[[], None]], None]


class Receive:
    """One receive ring, from a TAP to a guest's pages."""

    def __init__(self, ring: BackRing, channel: Channel, pages: Pages, fd: int, counters: Counters) -> None:
        """`fd`: the TAP's file."""
        self._ring, self._channel, self._pages, self._fd, self._counters = ring, channel, pages, fd, counters
        self._posted = Posted(ring.slots, pages)
        self._header = bytearray(VNET_SIZE)
        self._spill = bytearray(1)
        self._room = memoryview(bytearray(LARGEST * PAGE_SIZE))
        self._held: tuple[int, int, int, int] | None = None
        """A packet that lies in `_room`, for which there were too few pages: size, flags, GSO type and size."""
        self._generous = False
        """Whether the guest posts pages enough for any packet, so that they are worth waiting for."""
        self.slots = LARGEST + 1
        """Requests that the largest packet takes: 1 for a guest without scatter and gather."""
        self.capture: Capture | None = None
        self.gate: Gate | None = None
        self.starved: Callable[[], None] = lambda: None
        """Called when there are too few pages for a packet."""
        self.fed: Callable[[], None] = lambda: None
        """Called when there are enough again."""
        self.later: Later = lambda _seconds, _call: None
        """Has something called after some seconds, if the connection is still there."""

    def posted(self) -> None:
        """The guest may have posted pages: go on when there are enough."""
        assert self.gate is not None
        if not self._refill(self._wanted):
            self._starve()
        elif not self.gate.is_open:
            self.gate.open()
            self.fed()
            if self._held is not None:
                self.work()

    @property
    def _wanted(self) -> int:
        """Pages without which there is nothing to be done."""
        if self._held is not None:
            return _slots(*self._held)
        return self.slots if self._generous else 1

    def _refill(self, wanted: int) -> bool:
        """Whether there are so many pages. If not, the ring is asked to say when there are."""
        while True:
            data = self._ring.take_bytes()
            if data:
                self._counters.requests += len(data) // RX.entry_size
                self._posted.add(data)
                self._generous = self._generous or self._posted.count >= self.slots
            if self._posted.count >= wanted:
                return True
            if not self._ring.request_event(wanted - self._posted.count):
                return False

    def _starve(self) -> None:
        assert self.gate is not None
        self.gate.shut()
        self.starved()
        if self._generous and self._posted.count:
            self.later(_MAKE_DO_SECONDS, self._make_do)

    def _make_do(self) -> None:
        """If the guest posts no more, the pages that it has posted are to be of use."""
        assert self.gate is not None
        if not self.gate.is_open:
            self._generous = False
            self.posted()

    def work(self) -> None:
        """Read packets as long as there are some, and pages for them."""
        answers: list[bytes] = []
        size, batch = 0, 1  # the first goes at once, and wakes the guest while the others are being read
        for _ in range(_TURN):
            if (self._held is not None or self._posted.count < self.slots) and not self._refill(self._wanted):
                self._starve()
                break
            answer = self._one()
            if not answer:
                if self._held is not None:
                    continue  # there are too few pages for it, which is seen above
                break
            answers.append(answer)
            size += len(answer)
            if size >= batch:
                self._publish(answers)
                answers, size, batch = [], 0, _BATCH * RX.entry_size
        self._publish(answers)

    def _publish(self, answers: list[bytes]) -> None:
        if answers:
            data = b"".join(answers)
            self._counters.responses += len(data) // RX.entry_size
            self._ring.respond_bytes(data)
            if self._ring.publish():
                self._counters.events_sent += 1
                self._channel.notify()
            self._counters.write()

    def _one(self) -> bytes:
        """Read one packet; its responses, none when there was no packet."""
        views = None
        if self._held is None and self._posted.count >= self.slots:
            views = self._posted.room(self.slots)
        try:
            if views is None:
                return self._by_hand()
            size = os.readv(self._fd, [self._header, *views, self._spill]) - VNET_SIZE
        except BlockingIOError:
            return b""
        except OSError as error:
            unread(error)
            self._counters.drop_other += 1
            return b""
        if self._too_large(size):
            return b""
        flags, kind, segment = rx_said(self._header)
        self._count(views, size)
        if size > PAGE_SIZE and not kind:
            self._close_gap(-(-size // PAGE_SIZE))
        return self._answer(size, flags, kind, segment)

    def _too_large(self, size: int) -> bool:
        """Whether a packet does not fit what the guest takes, and is lost. A TAP cuts it off, and does not say so."""
        if size <= (LARGEST if self.slots > 1 else 1) * PAGE_SIZE:
            return False
        self._counters.drop_other += 1
        return True

    def _by_hand(self) -> bytes:
        """Where the guest's pages are not kept mapped, or few: read elsewhere, map what the packet needs, and copy."""
        if self._held is None:
            size = os.readv(self._fd, [self._header, self._room]) - VNET_SIZE
            if self._too_large(size):
                return b""
            flags, kind, segment = rx_said(self._header)
            self._held = size, flags, kind, segment
        size, flags, kind, segment = self._held
        needed = _slots(*self._held)
        if self._posted.count < needed:
            return b""
        self._held = None
        pieces = [(self._posted.ref(place), 0, PAGE_SIZE) for place in range(needed) if place != 1 or not kind]
        regions: list[Region] = []
        views = [found[0] for piece in pieces if (found := self._pages.slices([piece])) is not None]
        try:
            if len(views) < len(pieces):
                regions, views = self._pages.once(pieces)
                self._counters.grants_mapped += len(pieces)
        except Refused:
            self._counters.errors += 1
            number = self._posted.number(0)
            self._posted.drop(1)
            return _PACK(number, 0, 0, _ERROR)
        for at, view in zip(range(0, size, PAGE_SIZE), views, strict=False):
            part = min(PAGE_SIZE, size - at)
            view[:part] = self._room[at : at + part]
        self._count(views, size)
        for region in regions:
            region.close()
        return self._answer(size, flags, kind, segment)

    def _count(self, views: list[memoryview], size: int) -> None:
        if self.capture is not None:
            self.capture(cut(views, size), True)
        self._counters.units_out += 1
        self._counters.bytes_out += size

    def _answer(self, size: int, flags: int, kind: int, segment: int) -> bytes:
        """The responses for a packet that is in its pages."""
        posted = self._posted
        if kind:
            flags |= _EXTRA
        data = _PACK(posted.number(0), 0, flags | _MORE if size > PAGE_SIZE else flags, min(size, PAGE_SIZE))
        if kind:
            data += GSO.pack(ExtraType.gso, 0, segment, kind, 0)
        last = 1 if kind else 0
        if size > PAGE_SIZE:
            first, whole = last + 1, -(-size // PAGE_SIZE) - 2
            last = first + whole
            data += posted.whole(first, whole) + _PACK(posted.number(last), 0, 0, size - PAGE_SIZE * (whole + 1))
        posted.drop(last + 1)
        return data

    def _close_gap(self, count: int) -> None:
        """A packet of several pages that needs no extra slot: its pages move up by one."""
        pieces = [(self._posted.ref(place), 0, PAGE_SIZE) for place in range(1, count + 1)]
        views = [found[0] for piece in pieces if (found := self._pages.slices([piece])) is not None]
        for to, source in pairwise(views):
            to[:] = source


def _slots(size: int, _flags: int, kind: int, _segment: int) -> int:
    """Slots that a packet takes."""
    return max(1, -(-size // PAGE_SIZE)) + (1 if kind else 0)


assert RX.request.size == RX.response.size == RX.entry_size
