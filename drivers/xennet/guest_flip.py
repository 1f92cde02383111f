"""Receive by page flipping, netfront's end: it gives pages back to the hypervisor and posts offers to take others.

For each offer a page has been given back, so that the guest owns as much as before once all have come. What came is
read out of its page, written to the TAP, and the page is what is given back for the next offer. Where the backend took
an offer's slot for something else, the offer is withdrawn and made again.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

from xenfs.abi.netif import NR_SLOTS_MIN, RX
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel, Memory, Refused
from xenfs.ring import FrontRing
from xenfs.xenbus import PeerProtocolError
from xenfs.xenbus.counters import Counters
from xennet.guest_receive import GuestReceive

TARGET_MIN, TARGET_MAX = 8, 256
"""Offers that are kept open: doubled when they run low, one fewer when most were not needed."""
_SPARE = 64
"""Pages kept when fewer offers are wanted, before they are given to the rest of the guest."""
_SIZE = RX.entry_size
_PACK = RX.request.pack


class GuestFlip(GuestReceive):
    """One receive ring, from pages that change hands to a TAP.

    A slot of the ring has a page of private memory, into which is read what came by its offer; from there on it is as
    with pages that stay.
    """

    def __init__(
        self, ring: FrontRing, channel: Channel, memory: Memory, domid: int, fd: int, counters: Counters, *, large: bool
    ) -> None:
        """`domid`: the backend's; `fd`: the TAP's file; `large`: whether a packet may take many slots."""
        view = memoryview(mmap.mmap(-1, ring.slots * PAGE_SIZE))
        super().__init__(ring, channel, view, [0] * ring.slots, fd, counters)
        self._memory, self._domid = memory, domid
        self.minimum = NR_SLOTS_MIN + 1 if large else TARGET_MIN
        self.target = self.minimum
        self._refs = [0] * ring.slots
        self._taken = 0
        """The slot whose offer is answered next."""
        self._empty: set[int] = set()
        """Slots whose last answer came without a page."""
        self._spare: list[int] = []
        """Pages of the guest's to be given back."""
        self._given = 0
        """Pages that have been given back, and for which there is no open offer."""
        self._closed = False

    def post(self) -> None:
        """Make so many offers as are wanted."""
        self._grow(0)
        _, refs = self._exchange([])
        self._push(refs)
        if self._given:  # for which there is no offer any more, since fewer are wanted
            self._take_again()

    def _take_again(self) -> None:
        """Have pages from the hypervisor for those that were given back, as far as it has some."""
        _, got = self._memory.give_flips([], self._domid, [], self._given)
        self._given -= len(got)
        self._spare += got

    def _adapt(self) -> None:
        """Let the target float."""
        open_offers = self._ring.in_flight
        if open_offers < self.target // 2:
            self.target = min(2 * self.target, TARGET_MAX)
        elif open_offers > 3 * self.target // 4 and self.target > self.minimum:
            self.target -= 1

    @property
    def _room(self) -> int:
        """Offers that may be made."""
        unfinished = len(self._rest) // _SIZE
        return max(0, min(self.target, self._count - unfinished) - self._ring.in_flight)

    def _grow(self, coming: int) -> None:
        """Have pages for all of them, with those that are coming, and not many more."""
        short = self._room - self._given - len(self._spare) - coming
        if short > 0:
            with suppress(Refused):  # the guest has no more: then fewer
                self._spare += self._memory.alloc(short)
        elif short < -_SPARE:
            self._spare, less = self._spare[:short], self._spare[short:]
            self._memory.free(less)

    def _exchange(self, ended: list[int]) -> tuple[list[int | None], list[int]]:
        """Give pages back and make offers for them, and collect what came by others."""
        count = min(self._room, self._given + len(self._spare))
        more = max(0, count - self._given)
        back, self._spare = self._spare[:more], self._spare[more:]
        if not count and not ended:
            return [], []
        frames, refs = self._memory.take_flips(ended, back, self._domid, count)
        self._given += more - len(refs)
        return frames, refs

    def _push(self, refs: list[int]) -> None:
        if not refs:
            return
        data, number = [], self._posted
        for ref in refs:
            self._refs[number] = ref
            data.append(_PACK(number, ref))
            number = (number + 1) % self._count
        self._posted = number
        self._ring.push_bytes(b"".join(data))
        self._counters.requests += len(refs)
        if self._ring.publish():
            self._counters.events_sent += 1
            self._channel.notify()

    def _packets(self, data: bytes) -> None:
        self._collect(len(data) // _SIZE - len(self._rest) // _SIZE)
        super()._packets(data)

    def _collect(self, count: int) -> None:
        """Take the pages that came by the next `count` offers, and read what is in them."""
        numbers = [(self._taken + place) % self._count for place in range(count)]
        self._taken = (self._taken + count) % self._count
        self._adapt()
        self._grow(count)
        frames, refs = self._exchange([self._refs[number] for number in numbers])
        self._push(refs)
        self._empty.difference_update(numbers)
        came: list[int] = []
        places: list[memoryview] = []
        for number, frame in zip(numbers, frames, strict=True):
            if frame is None:
                self._empty.add(number)
            else:
                came.append(frame)
                places.append(self._view[number * PAGE_SIZE : (number + 1) * PAGE_SIZE])
        if came:
            self._memory.read_frames(came, places)
        self._given += count - len(came)
        self._spare += came
        self._counters.pages_flipped += len(came)

    def _pieces(self, data: bytes, at: int, end: int) -> list[memoryview] | None:
        first = self._next
        views = super()._pieces(data, at, end)
        if views is not None and self._empty:
            for place in range(end - at):
                if (number := (first + place) % self._count) in self._empty:
                    raise PeerProtocolError(f"{self._ring.name}: response {number} came without a page")
        return views

    def close(self) -> None:
        """Withdraw the offers, and have the guest own what it did before, as far as there are pages for it."""
        if self._closed:
            return
        self._closed = True
        count = self._ring.in_flight
        numbers = [(self._taken + place) % self._count for place in range(count)]
        frames, _ = self._memory.take_flips([self._refs[number] for number in numbers], [], self._domid)
        came = [frame for frame in frames if frame is not None]
        self._given += len(frames) - len(came)
        self._take_again()
        spare, self._spare = self._spare, []
        self._memory.free([*spare, *came])
