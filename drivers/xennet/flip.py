"""Receive by page flipping, netback's end: packets are read into pages of netback's own, which then become the guest's.

The guest has given pages back to the hypervisor, and posts offers to accept others. netback has a small stock of pages
from the hypervisor. It reads a batch of packets, fills with zeros what they leave of their last pages, and hands all
pages over in one go, together with the request for as many new ones. What a page had in it before is never seen by the
guest, since every page is written whole; a page that the hypervisor would not hand over stays netback's.

Packets are gathered in private memory and put into the pages as one piece (`mem`), which is faster than having each
page mapped: a mapping costs a hundred microseconds to make, and as much to take away from the former owner.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable

from xenfs.abi.grant_table import GntStatus
from xenfs.abi.netif import GSO, RX, ExtraType, RxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel, Memory
from xenfs.ring import BackRing
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.loop import Gate
from xennet.headers import VNET_SIZE, rx_said
from xennet.receive import LARGEST, Later
from xennet.tap import unread
from xennet.transmit import Capture

_BATCH = 64
"""Pages handed over at once; a packet is not split."""
_STOCK = _BATCH + LARGEST
"""Pages kept ready: a batch, however large its last packet is."""
_TURN = 64
_MORE, _EXTRA = int(RxFlag.more_data), int(RxFlag.extra_info)
_ERROR = -1
_PACK = RX.response.pack
_ZEROS = memoryview(bytes(PAGE_SIZE))
Slot = tuple[int, int, int]
"""A response to come: the request's id, flags, and bytes."""


class FlipReceive:
    """One receive ring, from a TAP to pages that change hands."""

    def __init__(
        self, ring: BackRing, channel: Channel, memory: Memory, domid: int, fd: int, counters: Counters
    ) -> None:
        """`domid`: the guest's; `fd`: the TAP's file."""
        self._ring, self._channel, self._memory, self._domid = ring, channel, memory, domid
        self._fd, self._counters = fd, counters
        self._header = bytearray(VNET_SIZE)
        self._spill = bytearray(1)
        self._room = memoryview(mmap.mmap(-1, _STOCK * PAGE_SIZE))
        self._offers: deque[tuple[int, int]] = deque()
        self._pages = 0
        self._refs: list[int] = []
        self._answers: list[Slot | bytes] = []
        self._held: tuple[int, int, int, int] | None = None
        """A packet that lies in the room behind the batch, for which there were too few offers."""
        self.slots = LARGEST + 1
        """Requests that the largest packet takes: 1 for a guest without scatter and gather."""
        self.capture: Capture | None = None
        self.gate: Gate | None = None
        self.starved: Callable[[], None] = lambda: None
        """Called when there are too few offers for a packet."""
        self.fed: Callable[[], None] = lambda: None
        """Called when there are enough again."""
        self.later: Later = lambda _seconds, _call: None
        """Nothing is put off here."""
        self._stock: list[int] = []
        self._restock()

    def posted(self) -> None:
        """The guest may have posted offers: go on when there are enough."""
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
        """Offers without which there is nothing to be done."""
        return 1 if self._held is None else _slots(*self._held)

    def _refill(self, wanted: int) -> bool:
        """Whether there are so many offers. If not, the ring is asked to say when there are."""
        while True:
            data = self._ring.take_bytes()
            if data:
                self._offers += RX.request.iter_unpack(data)
                self._counters.requests += len(data) // RX.entry_size
            if len(self._offers) >= wanted:
                return True
            if not self._ring.request_event(wanted - len(self._offers)):
                return False

    def _starve(self) -> None:
        assert self.gate is not None
        self.gate.shut()
        self.starved()

    def work(self) -> None:
        """Read packets as long as there are some, and offers for them."""
        for _ in range(_TURN):
            if self._held is None and not self._read():
                break
            if self._held is not None and not self._place():
                self._starve()
                break
        self._hand_over()
        self._counters.write()

    def _read(self) -> bool:
        """Read a packet behind the batch; whether there was one."""
        if self._pages + LARGEST > _STOCK or self._pages >= _BATCH:
            self._hand_over()
        start = self._pages * PAGE_SIZE
        room = self._room[start : start + LARGEST * PAGE_SIZE]
        views: list[bytearray | memoryview] = [self._header, room, self._spill]
        try:
            size = os.readv(self._fd, views) - VNET_SIZE
        except BlockingIOError:
            return False
        except OSError as error:
            unread(error)
            self._counters.drop_other += 1
            return True
        if size > (LARGEST if self.slots > 1 else 1) * PAGE_SIZE:
            self._counters.drop_other += 1
            return True
        self._held = size, *rx_said(self._header)
        rest = -size % PAGE_SIZE
        self._room[start + size : start + size + rest] = _ZEROS[:rest]
        return True

    def _place(self) -> bool:
        """Let the packet that was read have its offers and pages; whether there were offers enough."""
        assert self._held is not None
        size, flags, kind, segment = self._held
        wanted, pages = _slots(*self._held), _pages(size)
        if len(self._offers) < wanted and not self._refill(wanted):
            self._alone(pages)
            return False
        if len(self._stock) < self._pages + pages:
            self._alone(pages)
            self._restock()
        self._held = None
        if len(self._stock) < self._pages + pages:
            self._counters.drop_no_memory += 1  # the hypervisor has none
            return True
        start = self._pages * PAGE_SIZE
        if self.capture is not None:
            self.capture([self._room[start : start + size]], True)
        self._counters.units_out += 1
        self._counters.bytes_out += size
        self._pages += pages
        for page in range(pages):
            number, ref = self._offers.popleft()
            self._refs.append(ref)
            last = page == pages - 1
            self._answers.append((number, flags if last else flags | _MORE, min(PAGE_SIZE, size - page * PAGE_SIZE)))
            if kind and not page:
                self._answers[-1] = (number, self._answers[-1][1] | _EXTRA, self._answers[-1][2])
                self._offers.popleft()  # the slot is the extra one's; its offer stays open
                self._answers.append(GSO.pack(ExtraType.gso, 0, segment, kind, 0))
            flags = 0
        return True

    def _alone(self, pages: int) -> None:
        """Hand over what is before the packet that was read, which then lies at the beginning."""
        start = self._pages * PAGE_SIZE
        self._hand_over()
        if start:
            self._room[: pages * PAGE_SIZE] = bytes(self._room[start : start + pages * PAGE_SIZE])

    def _restock(self) -> None:
        """Ask for pages without handing any over."""
        missing = _STOCK - len(self._stock)
        if missing > 0:
            self._stock += self._memory.give_flips([], self._domid, [], missing)[1]
            self._stock.sort()

    def _hand_over(self) -> None:
        """Flip the batch, and ask for new pages."""
        count = self._pages
        if not count:
            return
        frames, self._stock = self._stock[:count], self._stock[count:]
        self._memory.write_frames(frames, self._room[: count * PAGE_SIZE])
        statuses, new = self._memory.give_flips(frames, self._domid, self._refs, _STOCK - len(self._stock))
        self._stock += new
        refused = {place for place, status in enumerate(statuses) if status is not GntStatus.okay}
        self._stock += [frames[place] for place in refused]
        self._stock.sort()  # the longer the runs, the fewer the writes
        self._counters.pages_flipped += count - len(refused)
        self._counters.errors += len(refused)
        self._answer(refused)
        self._pages, self._refs, self._answers = 0, [], []

    def _answer(self, refused: set[int]) -> None:
        data, page = [], 0
        for answer in self._answers:
            if isinstance(answer, bytes):
                data.append(answer)
                continue
            number, flags, size = answer
            data.append(_PACK(number, 0, flags, _ERROR if page in refused else size))
            page += 1
        self._counters.responses += len(data)
        self._ring.respond_bytes(b"".join(data))
        if self._ring.publish():
            self._counters.events_sent += 1
            self._channel.notify()

    def close(self) -> None:
        """Give the stock back."""
        stock, self._stock = self._stock, []
        self._memory.decrease_reservation(stock)


def _pages(size: int) -> int:
    """Pages that a packet takes."""
    return max(1, -(-size // PAGE_SIZE))


def _slots(size: int, _flags: int, kind: int, _segment: int) -> int:
    """Slots that it takes."""
    return _pages(size) + (1 if kind else 0)
