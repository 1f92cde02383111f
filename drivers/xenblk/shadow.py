"""What blkfront has asked for and not heard of, so that another backend can be asked again.

A wish is a read, a write, a flush or a discard of the guest's, and becomes one or more requests, each with pages of
its own. A request stays here until it is answered. When the backend has died and another has come, every one is put
into the new ring in the order in which it was first asked; so what was acknowledged was done by some backend, and a
flush never overtakes a write that was before it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from xenblk.pool import Pool, Slot
from xenfs.abi.blkif import MAX_SEGMENTS, SECTOR_SIZE, Discard, Indirect, Op, Segment, Status, direct
from xenfs.abi.blkif import Request as Entry
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel
from xenfs.ring import FrontRing
from xenfs.xenbus import Counters, PeerProtocolError

_LONGEST_DISCARD = 1 << 30
_NAMES = {int(op): op.name for op in Op}


@dataclass(slots=True, eq=False)
class Wish:
    """What the guest waits for. `fill` puts bytes of a write into a slot, `drain` takes those of a read out; each gets
    where in the wish they are, and how many. `done` is called once, with whether it was done."""

    op: int
    sector: int
    size: int
    done: Callable[[bool], None]
    fill: Callable[[Slot, int, int], None] = lambda _slot, _at, _size: None
    drain: Callable[[Slot, int, int], None] = lambda _slot, _at, _size: None
    next: int = 0
    left: int = 0
    good: bool = True


@dataclass(slots=True, eq=False)
class Part:
    """One request of a wish: `size` bytes from `at` on."""

    wish: Wish
    at: int
    size: int
    slot: Slot | None = None
    entry: Entry = field(default=(0, 0, 0, 0, 0, b""))


class Shadow:
    """The wishes of one disk."""

    def __init__(self, pool: Pool, counters: Counters) -> None:
        """Nothing is wished for, and there is no backend."""
        self._pool, self._counters = pool, counters
        self._ring: FrontRing | None = None
        self._channel: Channel | None = None
        self._parts: dict[int, Part] = {}
        self._again: deque[int] = deque()
        self._wishes: deque[Wish] = deque()
        self._numbers = list(range(1024))
        self.eager = len(os.sched_getaffinity(0)) > 1
        """Whether there is another processor for the backend, so that it is worth staying awake."""
        self.segments = MAX_SEGMENTS
        """Most segments of a request of this backend's."""
        self.flush: Op | None = None
        """How this backend is asked to have on the disk what it has acknowledged, if it can."""
        self.discards = False

    @property
    def idle(self) -> bool:
        """Whether nothing is wished for."""
        return not (self._parts or self._wishes)

    def connect(self, ring: FrontRing, channel: Channel, segments: int) -> None:
        """Another backend: everything that was not answered is asked again, in the order in which it was asked."""
        self._ring, self._channel, self.segments = ring, channel, max(MAX_SEGMENTS, segments)
        self._again = deque(self._parts)
        self.push()
        self.kick()

    def disconnect(self) -> None:
        """There is no backend for now."""
        self._ring = self._channel = None

    def add(self, wish: Wish) -> None:
        """Ask for something, with the next `push`."""
        self._wishes.append(wish)

    def push(self) -> None:
        """Put into the ring what there is room for, for `kick` to announce."""
        ring = self._ring
        if ring is None:
            return
        while ring.free and self._again:
            ring.push(*self._parts[self._again.popleft()].entry)
            self._counters.requests += 1
        while ring.free and self._wishes and not self._again:
            part = self._next(self._wishes[0])
            if part is None:
                break
            if part.wish.next >= part.wish.size:
                self._wishes.popleft()
            ring.push(*part.entry)
            self._counters.requests += 1

    def kick(self) -> None:
        """Tell the backend of what is in the ring."""
        if self._ring is not None and self._ring.publish():
            self._counters.events_sent += 1
            assert self._channel is not None
            self._channel.notify()

    def _next(self, wish: Wish) -> Part | None:
        """The next request of a wish; None when there is no page for it."""
        if wish.op == Op.discard:
            size = min(wish.size - wish.next, _LONGEST_DISCARD)
            part = Part(wish, wish.next, size)
            sector = wish.sector + wish.next // SECTOR_SIZE
            number = self._number(part)
            part.entry = Discard(number, sector, size // SECTOR_SIZE).emit()
        elif not wish.size:
            part = Part(wish, 0, 0)
            part.entry = direct(wish.op, 0, self._number(part), 0, [])
        else:
            most = min(wish.size - wish.next, self.segments * PAGE_SIZE)
            slot = self._pool.take(most)
            if slot is None:
                return None
            part = self._data(wish, slot, min(most, slot.size))
        wish.next += part.size
        wish.left += 1
        return part

    def _data(self, wish: Wish, slot: Slot, size: int) -> Part:
        part = Part(wish, wish.next, size, slot)
        number, sector = self._number(part), wish.sector + wish.next // SECTOR_SIZE
        count = -(-size // PAGE_SIZE)
        if count > MAX_SEGMENTS:
            self._pool.describe(slot, size)
            part.entry = Indirect(wish.op, number, sector, count, (slot.table,)).emit()
        else:
            part.entry = direct(wish.op, 0, number, sector, [Segment(*one) for one in slot.segments(size)])
        wish.fill(slot, wish.next, size)
        return part

    def _number(self, part: Part) -> int:
        number = self._numbers.pop()
        self._parts[number] = part
        return number

    def linger(self) -> bool:
        """Stay awake for a moment for an answer; whether one has come."""
        return bool(self._parts) and self._ring is not None and self.eager and self._ring.linger()

    def answered(self) -> None:
        """Take the answers, and ask for more. Raises PeerRingError and PeerProtocolError."""
        ring = self._ring
        if ring is None:
            return
        while True:
            for number, op, status in ring.take():
                self._counters.responses += 1
                self._answer(number, op, status)
            self.push()
            self.kick()
            if not ring.final_check():
                break
        self._counters.write()

    def _answer(self, number: int, op: int, status: int) -> None:
        part = self._parts.get(number)
        if part is None or number in self._again:
            raise PeerProtocolError(f"response for request {number}, which is not in flight")
        wish = part.wish
        if op != wish.op:
            raise PeerProtocolError(f"response says operation {op}, request {number} is {_NAMES[wish.op]}")
        if status not in (Status.okay, Status.error, Status.eopnotsupp):
            raise PeerProtocolError(f"response to request {number} says status {status}")
        del self._parts[number]
        self._numbers.append(number)
        good = status == Status.okay
        if status == Status.eopnotsupp and not wish.size:
            self.flush, good = None, True
        elif status == Status.eopnotsupp and op == Op.discard:
            self.discards = False
        wish.good = wish.good and good
        if part.slot is not None:
            if good and op == Op.read:
                wish.drain(part.slot, part.at, part.size)
            self._pool.give(part.slot)
        wish.left -= 1
        self._count(wish, part.size, good=good)
        if not wish.left and wish.next >= wish.size:
            wish.done(wish.good)

    def _count(self, wish: Wish, size: int, *, good: bool) -> None:
        counters = self._counters
        if not good:
            counters.errors += 1
        elif wish.op == Op.read:
            counters.units_in += 1
            counters.bytes_in += size
        elif wish.op == Op.write:
            counters.units_out += 1
            counters.bytes_out += size

    def give_up(self) -> None:
        """Nobody waits any more: everything has failed. What the backend was asked it still answers."""
        wishes = {id(part.wish): part.wish for part in self._parts.values()} | {id(w): w for w in self._wishes}
        self._wishes.clear()
        for wish in wishes.values():
            wish.done(False)
            wish.done, wish.drain = lambda _good: None, lambda _slot, _at, _size: None
