"""What usbfront has asked for and not heard of.

A request has an id below 16 (Linux's frontend needs that, and the ring has no more), and with the id its own pages,
which stay granted. Those for which there is no id wait. One id is kept for taking requests back, so that there is
always a way; and those that may take for ever, as a keyboard's, do not have all of the others. Many of one endpoint
have few ids together, so that there are some for other endpoints: a serial port's driver asks for much to read before
it writes. When the backend dies everything that it had ends with Status.shutdown: whoever asked may ask again.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from xenblk.pool import Slot

from xenfs.abi.usbif import FRAME, ISOC, UNLINK, Flag, Pipe, PipeType, Status, Urb
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel
from xenfs.ring import FrontRing
from xenfs.xenbus import Counters, Loop, PeerProtocolError
from xenfs.xenbus.frontend import Shared
from xenusb.descriptors import Setup
from xenusb.device import Packet

IDS = 16
_DATA_PAGES, _FRAME_PAGES = 15, 1
PAGES = IDS * (_DATA_PAGES + _FRAME_PAGES)
"""What `Urbs` needs."""
MOST = _DATA_PAGES * PAGE_SIZE
"""Bytes of one request: 61440, a whole number of packets of any size that there is."""
MOST_PACKETS = _FRAME_PAGES * PAGE_SIZE // FRAME.size
LASTING_IDS, MORE_IDS = 11, 4
"""For those that may take for ever; and as long as there are not more of them an endpoint may have another."""
_LOOK_SECONDS = 0.25
_QUEUE_SECONDS, _BACK_SECONDS = 60.0, 5.0
"""How long a request that may not take for ever may wait for an id, and how long it may take to take it back."""
_KNOWN = {int(status): status for status in Status}


@dataclass(slots=True, eq=False)
class Want:
    """A transfer that somebody wants. Bytes come from `data`, or `fill` puts them where they belong; those that came
    are in `data` in the end. `done` is called once.
    """

    port: int
    address: int
    type: PipeType
    endpoint: int
    inward: bool
    size: int
    done: Callable[[Want], None]
    setup: Setup | None = None
    data: bytes = b""
    packets: list[Packet] = field(default_factory=list)
    interval: int = 0
    whole: bool = False
    fill: Callable[[Slot], None] | None = None
    status: Status = Status.ok
    actual: int = 0
    errors: int = 0
    over: bool = False
    unlinking: bool = False
    seconds: float = 0.0
    deadline: float = 0.0

    @property
    def lasting(self) -> bool:
        """Whether it may take for ever."""
        return not self.seconds and self.type is not PipeType.control

    @property
    def where(self) -> tuple[int, int, bool]:
        """Which endpoint."""
        return self.port, self.endpoint, self.inward

    def end(self, status: Status) -> None:
        """It is over."""
        if not self.over:
            self.over, self.status = True, status
            self.done(self)


class Urbs:
    """The requests of one controller."""

    def __init__(self, pages: Shared, counters: Counters, loop: Loop) -> None:
        """With PAGES pages, and no backend."""
        self._view, _, refs = pages
        anchor = ctypes.c_char.from_buffer(self._view)
        base = ctypes.addressof(anchor)
        del anchor
        each = _DATA_PAGES + _FRAME_PAGES
        self._refs = [refs[at * each : (at + 1) * each] for at in range(IDS)]
        self._starts = [at * each * PAGE_SIZE for at in range(IDS)]
        self._slots = [Slot(base + start, ()) for start in self._starts]
        self._counters, self._loop = counters, loop
        self._ring: FrontRing | None = None
        self._channel: Channel | None = None
        self._flying: dict[int, Want | None] = {}
        """By id; None for a request that takes another back."""
        self._waiting: deque[Want] = deque()
        self._lasting: dict[tuple[int, int, bool], deque[Want]] = {}
        """By endpoint, of which none has no one."""
        self._unwanted: deque[Want] = deque()
        self.eager = len(os.sched_getaffinity(0)) > 1
        self._looking = False

    def connect(self, ring: FrontRing, channel: Channel) -> None:
        """There is a backend."""
        self._ring, self._channel = ring, channel
        self.push()

    def disconnect(self) -> None:
        """There is none: everything ends."""
        self._ring = self._channel = None
        there = (*self._flying.values(), *self._queued())
        self._flying, self._waiting, self._lasting = {}, deque(), {}
        self._unwanted.clear()
        for want in there:
            if want is not None:
                want.end(Status.shutdown)

    def submit(self, want: Want, seconds: float = 0.0) -> None:
        """Ask for something, with the next `push`; with `seconds` it ends with Status.shutdown when it takes longer,
        not counted how long it waits for an id.
        """
        if want.size > MOST or len(want.packets) > MOST_PACKETS:
            want.end(Status.inval)
            return
        if self._ring is None:
            want.end(Status.shutdown)
            return
        want.seconds = seconds
        if want.lasting:
            self._lasting.setdefault(want.where, deque()).append(want)
        else:
            self._waiting.append(want)
        if seconds:
            want.deadline = self._loop.now() + _QUEUE_SECONDS
            self._look_later()

    def _queued(self) -> list[Want]:
        """Those for which there is no id."""
        return [*self._waiting, *chain.from_iterable(self._lasting.values())]

    def _unqueue(self, want: Want) -> bool:
        """Let one wait no more; whether it has waited."""
        queue = self._lasting.get(want.where, deque()) if want.lasting else self._waiting
        if want not in queue:
            return False
        queue.remove(want)
        if want.lasting and not queue:
            del self._lasting[want.where]
        return True

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._loop.later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """End what takes too long: by taking it back, or at last without that."""
        self._looking = False
        now = self._loop.now()
        there = [want for want in (*self._flying.values(), *self._waiting) if want and want.deadline and not want.over]
        for want in there:
            if want.deadline <= now and want.unlinking:
                want.end(Status.shutdown)  # its id stays the backend's
            elif want.deadline <= now:
                want.deadline = now + _BACK_SECONDS
                self.cancel(want)
        if there:
            self._look_later()

    def cancel(self, want: Want) -> None:
        """Take something back: it ends with Status.shutdown, unless it ends otherwise before."""
        if want.over:
            return
        if self._unqueue(want):
            want.end(Status.shutdown)
        elif not want.unlinking:
            want.unlinking = True
            self._unwanted.append(want)
            self.push()

    def drop(self, port: int) -> None:
        """What was in a port is gone: what it has not been asked for yet ends, and the next one there is not asked."""
        there = [want for want in self._queued() if want.port == port]
        for want in there:
            self._unqueue(want)
        for want in there:
            want.end(Status.nodev)

    def linger(self) -> bool:
        """Stay awake for a moment for an answer, where there is another processor for the backend; if one has come."""
        return bool(self._flying) and self._ring is not None and self.eager and self._ring.linger()

    def push(self) -> None:
        """Put into the ring what there is room for, and tell the backend."""
        ring = self._ring
        if ring is None or self._channel is None:
            return
        while self._unwanted and ring.free and len(self._flying) < IDS:
            self._take_back(ring, self._unwanted.popleft())
        while self._waiting and ring.free > 1 and len(self._flying) < IDS - 1:
            self._put(ring, self._waiting.popleft())
        while ring.free > 1 and (want := self._next_lasting()) is not None:
            self._put(ring, want)
        if ring.publish():
            self._counters.events_sent += 1
            self._channel.notify()

    def _next_lasting(self) -> Want | None:
        """One of those that may take for ever, if one may go: each endpoint in its turn. Isochronous ones never take
        long, and several are under way where nothing is to be lost.
        """
        if len(self._flying) >= IDS - 1:
            return None
        flying = [want.where for want in self._flying.values() if want is not None and want.lasting]
        for where, queue in self._lasting.items():
            first = where not in flying or queue[0].type is PipeType.isoc
            if len(flying) < (LASTING_IDS if first else MORE_IDS):
                del self._lasting[where]
                want = queue.popleft()
                if queue:
                    self._lasting[where] = queue  # behind the others
                return want
        return None

    def _free(self) -> int:
        return next(number for number in range(IDS) if number not in self._flying)

    def _take_back(self, ring: FrontRing, victim: Want) -> None:
        numbers = [number for number, want in self._flying.items() if want is victim]
        if numbers:
            number = self._free()
            self._flying[number] = None
            pipe = Pipe(victim.port, victim.type, victim.inward, victim.address, victim.endpoint, unlink=True)
            ring.push(*Urb(number, pipe, special=UNLINK.pack(numbers[0])).emit())
            self._counters.requests += 1

    def _put(self, ring: FrontRing, want: Want) -> None:
        number = self._free()
        self._flying[number] = want
        if want.seconds:
            want.deadline = self._loop.now() + want.seconds
        start, refs = self._starts[number], self._refs[number]
        if not want.inward or want.packets:
            if want.fill is not None:
                want.fill(self._slots[number])
            else:
                self._view[start : start + len(want.data)] = want.data
        special, frames = bytes(8), list[tuple[int, int, int]]()
        if want.setup is not None:
            special = want.setup.emit()
        elif want.packets:
            frames = [(refs[_DATA_PAGES], 0, len(want.packets) * FRAME.size)]
            special = ISOC.pack(want.interval & 0xFFFF, 0, len(want.packets), len(frames))
            at = start + MOST
            for packet in want.packets:
                FRAME.pack_into(self._view, at, packet.offset, packet.length, 0, 0)
                at += FRAME.size
        elif want.type is PipeType.interrupt:
            special = (want.interval & 0xFFFF).to_bytes(2, "little") + bytes(6)
        pipe = Pipe(want.port, want.type, want.inward, want.address, want.endpoint)
        flags = int(Flag.short_not_ok) if want.whole else 0
        pages = tuple(_segments(refs, want.size))
        ring.push(*Urb(number, pipe, flags, want.size, special, pages, tuple(frames)).emit())
        self._counters.requests += 1

    def answered(self) -> None:
        """Take the answers. Raises PeerRingError and PeerProtocolError."""
        ring = self._ring
        while ring is not None and ring is self._ring:
            for number, _, status, actual, errors in ring.take():
                self._counters.responses += 1
                self._answer(number, status, actual, errors)
            self.push()
            if ring is not self._ring or not ring.final_check():
                break
        self._counters.write()

    def _answer(self, number: int, status: int, actual: int, errors: int) -> None:
        if number not in self._flying:
            raise PeerProtocolError(f"response for request {number}, which is not in flight")
        want = self._flying[number]
        if want is not None:
            want.actual = max(0, min(actual, want.size))
            want.errors = max(0, errors)
            if want.packets:
                self._described(number, want)
            if want.inward and (want.actual or want.packets) and not want.over:
                start = self._starts[number]
                want.data = bytes(self._view[start : start + (want.size if want.packets else want.actual)])
            if want.inward:
                self._counters.bytes_in += want.actual
            else:
                self._counters.bytes_out += want.actual
            self._counters.errors += status != Status.ok
        del self._flying[number]
        if want is not None:
            want.end(_KNOWN.get(status, Status.shutdown))

    def _described(self, number: int, want: Want) -> None:
        """What became of each packet: no more than there was room for."""
        at = self._starts[number] + MOST
        raw = bytes(self._view[at : at + len(want.packets) * FRAME.size])
        for packet, (_, _, actual, status) in zip(want.packets, FRAME.iter_unpack(raw), strict=True):
            packet.actual, packet.status = min(actual, packet.length), status


def _segments(refs: Sequence[int], size: int) -> list[tuple[int, int, int]]:
    whole, rest = divmod(size, PAGE_SIZE)
    found = [(ref, 0, PAGE_SIZE) for ref in refs[:whole]]
    return [*found, (refs[whole], 0, rest)] if rest else found
